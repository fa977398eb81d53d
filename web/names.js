/**
 * The names of words in a text box, as the nodes read them: separated by commas or lines; `cat#2` is the second cat. A
 * name that holds a comma is in double quotes, or has a backslash before the comma. `snow: 0.5` is a word with a factor of
 * its own; where a prompt has just these characters, they are a name.
 *
 * A prompt is here an array of its words, {text, name}, in order; `name` names that word alone, or is null. A choice is
 * something to pick, {name, places}: the places are [prompt, word] indices.
 */

export function splitNames(text) {
  const names = text.match(/\s*"(?:\\.|[^"\n])*"\s*(?=[,\n]|$)|(?:\\,|[^,\n])+/g) ?? []
  return names.map((name) => unquoted(name.trim())).filter(Boolean)
}

function unquoted(name) {
  const quoted = name.length > 2 && name.startsWith('"') && name.endsWith('"') && name.includes(',')
  return (quoted ? name.slice(1, -1).trim().replaceAll('\\"', '"') : name).replaceAll('\\,', ',')
}

/** Names as a text box holds them. */
export function joinNames(names) {
  return names.map((name) => name.replaceAll(',', '\\,')).join(', ')
}

const FACTOR = /^(.*\S)\s*:\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))$/

/** The indices of the words of a prompt that an entry of the box means: a word, all its occurrences, or a phrase. */
export function meant(entry, words) {
  const found = named(entry, words)
  const faded = FACTOR.exec(entry.trim())
  return found.length || !faded ? found : named(faded[1], words)
}

/** Whether a factor of its own may be written behind an entry's name. */
export function hasFactor(entry) {
  return FACTOR.test(entry.trim())
}

/** An entry without what may be its factor. */
export function withoutFactor(entry) {
  return FACTOR.exec(entry.trim())?.[1] ?? entry
}

/** An entry's name, and the factor written behind it, null where there is none. */
function parted(entry, prompts) {
  const faded = FACTOR.exec(entry.trim())
  if (!faded || prompts.some((words) => named(entry, words).length)) return { name: entry, factor: null }
  return { name: faded[1], factor: Number(faded[2]) }
}

function named(entry, words) {
  const numbered = /^(.*\S)#(\d+)$/.exec(entry.trim())
  const found = occurrences(numbered ? numbered[1] : entry, words)
  return (numbered ? found.slice(numbered[2] - 1, numbered[2]) : found).flat()
}

/** Found by letters: `)` is also a part of the word `),`, but `cat` is none of `catfish`. */
function occurrences(entry, words) {
  const wanted = plain(entry.replace(/\\([()])/g, '$1'))
  const found = []
  if (!wanted) return found
  const owners = words.flatMap(({ text }, i) => [...plain(text)].map((letter) => ({ letter, i })))
  const line = owners.map(({ letter }) => letter)
  const letters = [...wanted]
  for (let first = 0; first + letters.length <= line.length; first++) {
    if (!letters.every((letter, i) => line[first + i] === letter)) continue
    if (![first, first + letters.length].every((at) => mayCut(owners, at))) continue
    found.push([...new Set(owners.slice(first, first + letters.length).map(({ i }) => i))])
  }
  return found
}

function mayCut(owners, at) {
  if (at === 0 || at === owners.length || owners[at - 1].i !== owners[at].i) return true
  return [owners[at - 1], owners[at]].some(({ letter }) => !/[\p{L}\p{N}\p{M}]/u.test(letter))
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
  if (!meaning.length) return joinNames([...entries, choice.name])
  const others = meaning.flatMap((entry) => {
    const { name, factor } = parted(entry, prompts)
    return prompts.flatMap((words) =>
      meant(entry, words)
        .map((i) => words[i])
        .filter((word) => plain(word.text) === plain(name) && word.name && plain(word.name) !== plain(choice.name))
        .map((word) => withFactor(word.name, factor))
    )
  })
  const kept = entries.filter((entry) => !meaning.includes(entry))
  return joinNames([...new Set([...kept, ...others])])
}

/** The factor that the box gives a choice, of several the last one; null where it gives none. */
export function factorOf(text, prompts, choice) {
  return entriesFor(text, prompts, choice).map((entry) => parted(entry, prompts).factor).at(-1) ?? null
}

/** The box's text with this factor for a choice, whether it was in it or not. */
export function setFactor(text, prompts, choice, factor) {
  const without = entriesFor(text, prompts, choice).length ? toggle(text, prompts, choice) : text
  return joinNames([...splitNames(without), withFactor(choice.name, factor)])
}

function withFactor(name, factor) {
  return factor === null ? name : `${name}: ${Number(factor.toFixed(2))}`
}
