/** P2P Prompt Pair: the prompts as words, each edit's under the source's words that they stand for. */

import { isDecided, withLine, withoutWord } from './alignment.js'
import { columnsOf, countOf, counts, kindName, summary, tokenCount, wordsOf } from './columns.js'
import { followDrag } from './drags.js'
import { make, redraw, toggleButton } from './elements.js'
import { t } from './texts.js'

const ALIGNMENT = 'alignment'

/**
 * @param host see p2p.js; `host.comparison()` is what the server says of the node's prompts. What a person decides about
 * which word stands for which, by dragging a line between two words or picking one after the other, is written into the
 * node's text `alignment`.
 */
export function pairView(host) {
  const element = make('div', { class: 'p2p-pair' })
  let open = false // whether the node's text box of decisions is shown while it is empty
  let picked = null // {edit, side, name}: the word that waits for its counterpart
  const linker = {
    picked: (edit, side, name) => picked !== null && picked.edit === edit && picked.side === side && picked.name === name,
    pick(edit, side, name) {
      if (picked && picked.edit === edit && picked.side !== side) return linker.link(edit, picked, { side, name })
      picked = linker.picked(edit, side, name) ? null : { edit, side, name }
      host.look()
    },
    link(edit, one, other) {
      picked = null
      const names = { [one.side]: one.name, [other.side]: other.name }
      host.set(ALIGNMENT, withLine(host.value(ALIGNMENT) ?? '', names, edit))
    },
    forget(edit, side, name) {
      picked = null
      host.set(ALIGNMENT, withoutWord(host.value(ALIGNMENT) ?? '', { [side]: name }, edit))
    },
    decided: (edit, side, name) => isDecided(host.value(ALIGNMENT) ?? '', { [side]: name }, edit)
  }
  element.addEventListener('pointerdown', (event) => startDrag(event, element, linker))
  return {
    element,
    state: () => ({ told: host.comparison(), open, picked, alignment: host.value(ALIGNMENT) }),
    show({ told, alignment }) {
      host.fold(ALIGNMENT, !open && !alignment)
      element.classList.toggle('p2p-pending', Boolean(told.pending))
      const hints = (told.hints ?? []).map((hint) => note({ hint }))
      const refused = told.answer?.refused ? note({ error: told.answer.refused }) : null
      const pen = alignment ? null : () => penButton(open, openOrClose)
      redraw(element, told.hint || told.error || !told.answer ? note(told) : [hints, refused, pair(told.answer, linker, pen)])
    }
  }

  function openOrClose() {
    open = !open
    host.look()
  }
}

/** From a word a line is drawn to where the pointer is; over a word of the other prompt, or that prompt's name, it ends. */
function startDrag(event, element, linker) {
  const from = event.target.closest('[data-word]')
  if (!from || event.button !== 0) return
  const began = [event.clientX, event.clientY]
  const line = make('span', { class: 'p2p-drawn', 'aria-hidden': 'true' })
  followDrag(event, {
    start: () => element.append(line),
    move({ clientX, clientY }) {
      const box = element.getBoundingClientRect()
      const scale = box.width / element.offsetWidth || 1 // the canvas is zoomed
      const [x, y] = [(began[0] - box.left) / scale, (began[1] - box.top) / scale]
      const [dx, dy] = [(clientX - began[0]) / scale, (clientY - began[1]) / scale]
      line.style.left = `${x}px`
      line.style.top = `${y}px`
      line.style.width = `${Math.hypot(dx, dy)}px`
      line.style.transform = `rotate(${Math.atan2(dy, dx)}rad)`
    },
    end({ clientX, clientY }) {
      line.remove()
      const to = document.elementFromPoint(clientX, clientY)?.closest('[data-side]')
      const { edit, side, word } = from.dataset
      if (!to || !element.contains(to) || to.dataset.edit !== edit || to.dataset.side === side) return
      linker.link(Number(edit), { side, name: word }, { side: to.dataset.side, name: to.dataset.word ?? null })
    }
  })
}

/** A sentence in place of the words: what is missing, or what went wrong. */
export function note({ hint, error }) {
  const text = error ?? hint ?? t('Reading …')
  return make('p', { class: error ? 'p2p-note p2p-error' : 'p2p-note', role: 'status' }, text)
}

/** Shows the node's text box of decisions, or hides it again. */
function penButton(open, onclick) {
  const title = t('Decide by hand which word stands for which')
  const properties = { type: 'button', class: 'p2p-opener', 'data-key': 'pen', 'aria-expanded': String(open), onclick }
  return make('button', { ...properties, title, 'aria-label': title }, '✎')
}

function pair(answer, linker, pen) {
  if (!answer.edits.length) return sourceAlone(answer)
  return answer.edits.map((_, i) => edit(answer, i, linker, i === 0 ? pen : null))
}

function edit(answer, i, linker, pen) {
  const label = answer.edits.length > 1 ? t('edit {number}', { number: i + 1 }) : t('edit')
  const [source, target] = [answer.prompts[0], answer.prompts[i + 1]]
  const tokens = tokenCount({ ...target, tokens: `${source.tokens} → ${target.tokens}` })
  const head = headOf(answer, label, counts(answer, i), tokens, pen)
  if (answer.edits[i] === null) {
    const tooLong = t('Too long to compare while you type. The nodes will, when they run.')
    return make('section', {}, head, note({ hint: tooLong }))
  }
  const { columns, left } = columnsOf(answer, i)
  const rowName = (side, text, title) => make('i', { 'data-side': side, 'data-edit': String(i), title }, text)
  const rowNames = make(
    'span',
    { class: 'p2p-column p2p-rows' },
    rowName('source', t('source'), t('Drag a word here: it is then new.')),
    rowName('target', label, t('Drag a word here: it is then removed.'))
  )
  const flow = make('div', { class: 'p2p-flow' }, rowNames, columns.map((each) => column(each, i, linker)), left ? more(left) : null)
  return make('section', { 'aria-label': `${label}: ${summary(counts(answer, i))}` }, head, flow)
}

/** What is shown, how many words of each kind (which explains their looks, too), and the tokens. */
function headOf(answer, label, counted, tokens, pen = null) {
  const keys = counted.map((each) =>
    make('span', { class: `p2p-chip p2p-${each.kind}`, title: meaning(each.kind) }, countOf(each))
  )
  return make(
    'div',
    { class: 'p2p-head' },
    make('b', {}, label),
    keys,
    pen?.(),
    make('span', { class: 'p2p-counts', title: readBy(answer.tokenizer) }, tokens)
  )
}

function meaning(kind) {
  return {
    shared: t('stands in both prompts'),
    swapped: t('stands in place of the other'),
    new: t('only in the edited prompt'),
    removed: t('only in the source')
  }[kind]
}

function readBy(tokenizer) {
  return tokenizer.connected
    ? t(
        'Read by the connected CLIP ({name}). Before and after the words of each 77 positions stand a start and an ' +
          'end.',
        tokenizer
      )
    : t(
        'Read by ComfyUI’s own {name}; once it has run, by the connected CLIP. Before and after the words of each 77 ' +
          'positions stand a start and an end.',
        tokenizer
      )
}

function column({ kind, source, target, moved }, edit, linker) {
  const title = [source, target].map((words) => words.map(({ text }) => text).join(' ')).filter(Boolean).join(' → ')
  const name = moved ? t('{kind}, moved', { kind: kindName(kind) }) : kindName(kind)
  return make(
    'span',
    {
      class: `p2p-column p2p-${kind}${moved ? ' p2p-moved' : ''}`,
      title: `${name}: ${kind === 'shared' ? title.split(' → ')[0] : title}`
    },
    side(source, kind, { edit, side: 'source', linker }),
    make('span', { class: 'p2p-link', 'aria-hidden': 'true' }),
    side(target, kind, { edit, side: 'target', linker })
  )
}

/** One row of a column; where it has no word, the kind is written. `where` is its edit and side, to link words from. */
function side(words, kind, where) {
  if (!words.length) return make('span', { class: 'p2p-gap' }, kindName(kind))
  return make('span', { class: 'p2p-cell' }, words.map((word) => chip(word, kind, where)))
}

function chip(word, kind, where) {
  const full = t('Here a chunk of 77 tokens ends: its start, 75 of the text, its end.')
  const border = word.border ? make('span', { class: 'p2p-border', title: full }, '77') : null
  const pieces = word.tokens > 1 ? make('sup', { title: piecesOf(word) }, String(word.tokens)) : null
  const classes = `p2p-chip p2p-${kind}${word.split ? ' p2p-split' : ''}`
  if (!where || word.name === null) return [border, make('span', { class: classes }, word.text, pieces)]
  const { edit, side, linker } = where
  const decided = linker.decided(edit, side, word.name)
  const button = toggleButton(
    {
      on: linker.picked(edit, side, word.name),
      class: `${classes} p2p-linkable${decided ? ' p2p-decided' : ''}`,
      'data-word': word.name,
      'data-side': side,
      'data-edit': String(edit),
      'data-key': `${edit} ${side} ${word.name}`,
      title: decided
        ? t('{word}: you have decided this. Double-click to leave it to the node.', { word: word.name })
        : t('Wrong counterpart? Drag a line to the right word, or click one after the other.'),
      onclick: () => linker.pick(edit, side, word.name),
      ondblclick: () => linker.forget(edit, side, word.name)
    },
    word.text,
    pieces
  )
  return [border, button]
}

function piecesOf(word) {
  return word.split ? t('{tokens} tokens, split between two chunks of 77 positions', word) : t('{tokens} tokens', word)
}

function sourceAlone(answer) {
  const [prompt] = answer.prompts
  const { words, left } = wordsOf(prompt)
  const chips = words.map((word) => make('span', { class: 'p2p-cell' }, chip(word, 'shared')))
  const head = headOf(answer, t('source'), [], tokenCount(prompt))
  return make('section', {}, head, make('div', { class: 'p2p-flow' }, chips, left ? more(left) : null))
}

function more(left) {
  return make('span', { class: 'p2p-note' }, t('… and {count} more', { count: left }))
}
