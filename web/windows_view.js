/** P2P Attention Replace and Refine: when the source's maps are taken over, as a whole and for single words. */

import { barsView } from './bars_view.js'
import { choicesOf, kindName } from './columns.js'
import { make, opener, redraw } from './elements.js'
import { plain } from './names.js'
import { note } from './pair_view.js'
import { t } from './texts.js'
import { readWindows, removeWindow, setWindow, unreadable } from './windows.js'

const TEXT = 'word_windows'
const WAY = 'injection'

/** Bars that are two numbers of the node: `names` are [() => label, start's widget or null, end's widget or null]. */
export function numbersView(host, names) {
  const bars = () =>
    names.map(([label, start, end]) => ({
      key: start ?? end,
      label: label(),
      start: start ? Math.min(1, Number(host.value(start))) : 0,
      end: end ? Math.min(1, Number(host.value(end))) : 1,
      ends: [start && 'start', end && 'end'].filter(Boolean)
    }))
  return barsView(host, bars, (key, window, side) => {
    const [, start, end] = names.find(([, start, end]) => (start ?? end) === key)
    host.set(side === 'start' ? start : end, window[side])
  })
}

/** The bars of the words that have their own window, and the words that may get one. */
export function windowsView(host, kinds) {
  const bars = () =>
    readWindows(host.value(TEXT)).map(({ name, start, end }, i, all) => ({
      key: `word ${i} ${name}`,
      label: name,
      name,
      start,
      end,
      // of two windows for one word the last one counts
      ends: all.findLastIndex((other) => plain(other.name) === plain(name)) === i ? ['start', 'end'] : [],
      remove: () => host.set(TEXT, removeWindow(host.value(TEXT), name))
    }))
  const rows = barsView(host, bars, (key, { start, end }) => {
    const { name } = bars().find((bar) => bar.key === key)
    host.set(TEXT, setWindow(host.value(TEXT), name, start, end))
  })
  const choices = make('div', { class: 'p2p-words' })
  let open = false // whether the words to choose from are shown
  let injection = false // whether the node's choice of the way of injection is shown while it is the usual one
  return {
    element: make('div', {}, rows.element, choices),
    state: () => ({
      open,
      injection,
      way: host.value(WAY),
      rows: rows.state(),
      told: host.comparison(),
      edit: Number(host.value('edit') ?? 0),
      text: host.value(TEXT)
    }),
    show({ told, edit, text, way }) {
      rows.show()
      host.fold(WAY, !injection && way === 'auto')
      choices.classList.toggle('p2p-pending', Boolean(told.pending))
      const bad = unreadable(text).map((line) =>
        note({ error: t('Wanted ‘word: end’ or ‘word: start-end’, got ‘{line}’.', { line }) })
      )
      redraw(choices, bad, told.answer && !told.hint ? [openers(way), open && chips(told.answer, edit, text)] : note(told))
    }
  }

  function openers(way) {
    const showWords = () => {
      open = !open
      host.look()
    }
    const showWay = () => {
      injection = !injection
      host.look()
    }
    return make(
      'div',
      { class: 'p2p-flow' },
      opener({ open, onclick: showWords }, t('own window for a word')),
      way === 'auto' ? opener({ open: injection, onclick: showWay }, t('injection')) : null
    )
  }

  function chips(answer, edit, text) {
    const windows = readWindows(text)
    const found = choicesOf(answer, { edit, kinds })
    const buttons = found
      .filter(({ name }) => !windows.some((window) => plain(window.name) === plain(name)))
      .map(({ name, kind }) =>
        make(
          'button',
          {
            type: 'button',
            class: `p2p-chip p2p-pick p2p-${kind}`,
            'data-key': `window ${name}`,
            title: t('Give {word} ({kind}) a window of its own', { word: name, kind: kindName(kind) }),
            onclick: () => {
              const [start, end] = ['cross_start', 'cross_end'].map((each) => Number(host.value(each)))
              host.set(TEXT, setWindow(host.value(TEXT), name, Math.min(start, end), end))
            }
          },
          `+ ${name}`
        )
      )
    const hint = found.length ? null : note({ hint: noSuchWord() })
    return make('div', { class: 'p2p-flow', role: 'group', 'aria-label': t('own window for a word') }, buttons, hint)
  }

  function noSuchWord() {
    return kinds.includes('swapped')
      ? t('No shared or swapped word in the edited prompt.')
      : t('No shared word in the edited prompt.')
  }
}
