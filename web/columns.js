/** What the server says of a prompt pair (POST /p2p/alignment), as what the page draws. No DOM here. */

import { t } from './texts.js'

export const KINDS = ['shared', 'swapped', 'new', 'removed']
const MOST_COLUMNS = 300

/** What a kind is called. */
export function kindName(kind) {
  return { shared: t('shared'), swapped: t('swapped'), new: t('new'), removed: t('removed') }[kind]
}

/**
 * The columns of an edit: in each, words of the source over the words of the target that stand for them.
 * @returns {{columns: {kind: string, source: object[], target: object[]}[], left: number}} `left`: of a very long
 * prompt, how many more there are.
 */
export function columnsOf(answer, edit) {
  const [source, target] = [answer.prompts[0].words, answer.prompts[edit + 1].words]
  const spans = answer.edits[edit] ?? []
  const columns = spans.slice(0, MOST_COLUMNS).map((span) => ({
    kind: span.kind,
    moved: Boolean(span.moved), // it stands elsewhere in the source
    source: span.source.map((i) => ({ ...withBorder(source, i), border: !span.moved && withBorder(source, i).border })),
    target: span.target.map((i) => withBorder(target, i))
  }))
  return { columns, left: Math.max(0, spans.length - MOST_COLUMNS) }
}

/** A prompt alone, one word a column. */
export function wordsOf(prompt) {
  const words = prompt.words.slice(0, MOST_COLUMNS).map((_, i) => withBorder(prompt.words, i))
  return { words, left: Math.max(0, prompt.words.length - MOST_COLUMNS) }
}

/** `border`: the chunk of 77 positions before this word is full, and another one begins. */
function withBorder(words, i) {
  return { ...words[i], border: i > 0 && words[i].chunk > words[i - 1].chunk && !words[i - 1].split }
}

/** How many words of an edit are of each kind that occurs; removed ones are the source's, the others its own. */
export function counts(answer, edit) {
  const count = Object.fromEntries(KINDS.map((kind) => [kind, 0]))
  for (const span of answer.edits[edit] ?? []) count[span.kind] += span.target.length || span.source.length
  return KINDS.filter((kind) => count[kind]).map((kind) => ({ kind, count: count[kind] }))
}

/** "5 shared" */
export function countOf({ kind, count }) {
  return t('{count} {kind}', { count, kind: kindName(kind) })
}

/** "5 shared, 1 swapped" */
export function summary(counted) {
  return counted.map(countOf).join(', ')
}

/** "7 of 75 tokens", and the chunks if there are several. */
export function tokenCount(prompt) {
  return prompt.chunks > 1
    ? t('{tokens} of {room} tokens in {chunks} chunks', prompt)
    : t('{tokens} of {room} tokens', prompt)
}

/**
 * The words to pick from, each once: {name, text, kind, places}, in the order of the prompts.
 * @param answer from the server.
 * @param {{source?: boolean, edit?: number, kinds?: string[]}} which with the source's words; the number of the edited
 * prompt, 0 for all; only words of these kinds.
 */
export function choicesOf(answer, { source = false, edit = 0, kinds = KINDS } = {}) {
  const choices = new Map()
  const add = (prompt, i, kind) => {
    const { name, text } = answer.prompts[prompt].words[i]
    if (name === null || !kinds.includes(kind)) return
    const key = name.toLowerCase()
    if (!choices.has(key)) choices.set(key, { name, text, kind, places: [] })
    const choice = choices.get(key)
    choice.places.push([prompt, i])
    // of several prompts the kind that tells most: a word that is new in one of them is no longer just shared
    if (KINDS.indexOf(kind) > KINDS.indexOf(choice.kind)) choice.kind = kind
  }
  const edits = answer.edits.map((_, i) => i).filter((i) => edit === 0 || edit === i + 1)
  if (source) {
    const kindOf = new Map()
    for (const i of edits) {
      for (const span of answer.edits[i] ?? []) {
        for (const word of span.source) kindOf.set(word, span.kind === 'shared' ? kindOf.get(word) ?? 'shared' : span.kind)
      }
    }
    answer.prompts[0].words.forEach((_, i) => add(0, i, kindOf.get(i) ?? 'shared'))
  }
  for (const i of edits) {
    const spans = answer.edits[i] ?? answer.prompts[i + 1].words.map((_, word) => ({ kind: 'shared', target: [word] }))
    for (const span of spans) for (const word of span.target) add(i + 1, word, span.kind)
  }
  return [...choices.values()]
}
