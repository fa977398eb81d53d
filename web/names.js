/**
 * The names of words in a text box, as the nodes read them: separated by commas or lines; `cat#2` is the second cat.
 *
 * A prompt is here an array of its words, {text, name}, in order; `name` names that word alone, or is null. A choice is
 * something to pick, {name, places}: the places are [prompt, word] indices.
 */

export function splitNames(text) {
  return text.split(/[,\n]/).map((name) => name.trim()).filter(Boolean)
}

/** The indices of the words of a prompt that an entry of the box means: a word, all its occurrences, or a phrase. */
export function meant(entry, words) {
  const numbered = /^(.*\S)#(\d+)$/.exec(entry.trim())
  const found = occurrences(numbered ? numbered[1] : entry, words)
  return (numbered ? found.slice(numbered[2] - 1, numbered[2]) : found).flat()
}

function occurrences(entry, words) {
  const wanted = plain(entry)
  const found = []
  for (let first = 0; wanted && first < words.length; first++) {
    let letters = ''
    for (let last = first; last < words.length && letters.length < wanted.length; last++) {
      letters += plain(words[last].text)
      if (letters === wanted) found.push(words.slice(first, last + 1).map((_, i) => first + i))
    }
  }
  return found
}

/** How the text encoder sees letters, near enough to compare them: case and spaces do not count. */
export function plain(text) {
  return text.toLowerCase().replace(/\s+/g, '')
}

/** The entries of the box that mean a choice. */
export function entriesFor(text, prompts, choice) {
  return splitNames(text).filter((entry) =>
    choice.places.some(([prompt, word]) => meant(entry, prompts[prompt]).includes(word))
  )
}

/**
 * The box's text with a choice added or, if it is meant already, taken out. An entry `cat` that means several cats
 * leaves the others by their own names; a phrase goes as a whole.
 */
export function toggle(text, prompts, choice) {
  const entries = splitNames(text)
  const meaning = entriesFor(text, prompts, choice)
  if (!meaning.length) return [...entries, choice.name].join(', ')
  const others = meaning.flatMap((entry) =>
    prompts.flatMap((words) =>
      meant(entry, words).map((i) => words[i]).filter((word) => plain(word.text) === plain(entry) && word.name)
    )
  )
  const left = others.map((word) => word.name).filter((name) => plain(name) !== plain(choice.name))
  const kept = entries.filter((entry) => !meaning.includes(entry))
  return [...new Set([...kept, ...left])].join(', ')
}
