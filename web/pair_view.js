/** P2P Prompt Pair: the prompts as words, each edit's under the source's words that they stand for. */

import { columnsOf, counts, summary, tokenCount, wordsOf } from './columns.js'
import { make, redraw } from './elements.js'

const SAYS = {
  shared: 'stands in both prompts',
  swapped: 'stands in place of the other',
  new: 'only in the edited prompt',
  removed: 'only in the source'
}

/** @param host see p2p.js; `host.comparison()` is what the server says of the node's prompts. */
export function pairView(host) {
  const element = make('div', { class: 'p2p-pair' })
  return {
    element,
    state: () => host.comparison(),
    show(told) {
      element.classList.toggle('p2p-pending', Boolean(told.pending))
      redraw(element, told.hint || told.error || !told.answer ? note(told) : pair(told.answer))
    }
  }
}

/** A sentence in place of the words: what is missing, or what went wrong. */
export function note({ hint, error }) {
  return make('p', { class: error ? 'p2p-note p2p-error' : 'p2p-note', role: 'status' }, error ?? hint ?? 'Reading …')
}

function pair(answer) {
  if (!answer.edits.length) return sourceAlone(answer)
  return answer.edits.map((_, i) => edit(answer, i))
}

function edit(answer, i) {
  const label = answer.edits.length > 1 ? `edit ${i + 1}` : 'edit'
  const [source, target] = [answer.prompts[0], answer.prompts[i + 1]]
  const head = headOf(answer, label, counts(answer, i), `${source.tokens} → ${tokenCount(target)}`)
  if (answer.edits[i] === null) {
    return make('section', {}, head, note({ hint: 'Too long to compare while you type. The nodes will, when they run.' }))
  }
  const { columns, left } = columnsOf(answer, i)
  const rowNames = make('span', { class: 'p2p-column p2p-rows' }, make('i', {}, 'source'), make('i', {}, label))
  const flow = make('div', { class: 'p2p-flow' }, rowNames, columns.map(column), left ? more(left) : null)
  return make('section', { 'aria-label': `${label}: ${summary(counts(answer, i))}` }, head, flow)
}

/** What is shown, how many words of each kind (which explains their looks, too), and the tokens. */
function headOf(answer, label, counted, tokens) {
  const { name, connected } = answer.tokenizer
  const reader = connected ? `the connected CLIP (${name})` : `ComfyUI’s own ${name}; once it has run, by the connected CLIP`
  const keys = counted.map(({ kind, count }) =>
    make('span', { class: `p2p-chip p2p-${kind}`, title: SAYS[kind] }, `${count} ${kind}`)
  )
  return make(
    'div',
    { class: 'p2p-head' },
    make('b', {}, label),
    keys,
    make('span', { class: 'p2p-counts', title: `Read by ${reader}. Before and after the words of each 77 positions stand a start and an end.` }, tokens)
  )
}

function column({ kind, source, target }) {
  const title = [source, target].map((words) => words.map(({ text }) => text).join(' ')).filter(Boolean).join(' → ')
  return make(
    'span',
    { class: `p2p-column p2p-${kind}`, title: `${kind}: ${kind === 'shared' ? title.split(' → ')[0] : title}` },
    side(source, kind, target.length ? kind : null),
    make('span', { class: 'p2p-link', 'aria-hidden': 'true' }),
    side(target, kind, source.length ? kind : null)
  )
}

/** One row of a column; where it has no word, the kind is written. */
function side(words, kind) {
  if (!words.length) return make('span', { class: 'p2p-gap' }, kind)
  return make('span', { class: 'p2p-cell' }, words.map((word) => chip(word, kind)))
}

function chip(word, kind) {
  const border = word.border ? make('span', { class: 'p2p-border', title: 'Here a chunk of 77 positions ends.' }, '77') : null
  const split = word.split ? ', split between two chunks of 77 positions' : ''
  const pieces = word.tokens > 1 ? make('sup', { title: `${word.tokens} tokens${split}` }, String(word.tokens)) : null
  const classes = `p2p-chip p2p-${kind}${word.split ? ' p2p-split' : ''}`
  return [border, make('span', { class: classes }, word.text, pieces)]
}

function sourceAlone(answer) {
  const [prompt] = answer.prompts
  const { words, left } = wordsOf(prompt)
  const chips = words.map((word) => make('span', { class: 'p2p-cell' }, chip(word, 'shared')))
  return make('section', {}, headOf(answer, 'source', [], tokenCount(prompt)), make('div', { class: 'p2p-flow' }, chips, left ? more(left) : null))
}

function more(left) {
  return make('span', { class: 'p2p-note' }, `… and ${left} more`)
}
