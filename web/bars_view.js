/** Windows as bars over the steps, from the first (left) to the last (right); their ends can be moved. */

import { make, redraw } from './elements.js'
import { t } from './texts.js'
import { moveEnd, number } from './windows.js'

const STEP = 0.01
const PAGE = 0.1

/**
 * @param host see p2p.js.
 * @param {() => {key: string, label: string, start: number, end: number, ends: string[], remove?: () => void}[]} bars
 * what to show; `ends` are those that can be moved. A bar with `remove` has a button for that.
 * @param {(key: string, window: {start: number, end: number}, side: string) => void} change
 */
export function barsView(host, bars, change) {
  const element = make('div', { class: 'p2p-bars' })
  let drag = null // {key, side}, while an end is held

  function move(key, side, to) {
    const bar = bars().find((each) => each.key === key)
    if (bar) change(key, moveEnd(bar, side, to), side)
  }

  element.addEventListener('pointerdown', (event) => {
    const track = event.target.closest('.p2p-track')
    if (!track || event.button !== 0) return
    const bar = bars().find(({ key }) => key === track.dataset.track)
    const to = place(track, event)
    const side = event.target.dataset.side ?? nearest(bar, to)
    event.preventDefault()
    drag = { key: bar.key, side }
    element.setPointerCapture(event.pointerId)
    host.begin()
    move(bar.key, side, to)
    element.querySelector(`[data-key="${CSS.escape(`${bar.key} ${side}`)}"]`)?.focus({ preventScroll: true })
  })
  element.addEventListener('pointermove', (event) => {
    if (!drag) return
    const track = element.querySelector(`[data-track="${CSS.escape(drag.key)}"]`)
    if (track) move(drag.key, drag.side, place(track, event))
  })
  for (const name of ['pointerup', 'pointercancel', 'lostpointercapture']) {
    element.addEventListener(name, () => {
      if (drag) host.end()
      drag = null
    })
  }
  element.addEventListener('keydown', (event) => {
    const { track, side } = event.target.dataset
    if (!side) return
    const bar = bars().find(({ key }) => key === track)
    const step = { ArrowLeft: -STEP, ArrowDown: -STEP, ArrowRight: STEP, ArrowUp: STEP, PageDown: -PAGE, PageUp: PAGE }[event.key]
    const to = { Home: 0, End: 1 }[event.key] ?? (step === undefined ? undefined : bar[side] + step)
    if (to !== undefined) host.transact(() => move(track, side, to))
    else if (bar.remove && ['Delete', 'Backspace'].includes(event.key)) host.transact(bar.remove)
    else return
    event.preventDefault()
    event.stopPropagation() // Delete would take the node out of the graph
  })

  return { element, state: () => bars().map(({ remove, ...shown }) => shown), show: () => redraw(element, bars().map(draw)) }

  function draw(bar) {
    const fill = `left:${100 * bar.start}%;width:${100 * (bar.end - bar.start)}%`
    const range = bar.start < bar.end ? `${number(bar.start)}–${number(bar.end)}` : t('never')
    return make(
      'div',
      { class: 'p2p-bar' },
      make('span', { class: 'p2p-bar-label', title: bar.label }, bar.label),
      make(
        'div',
        { class: 'p2p-track', 'data-track': bar.key },
        make('div', { class: 'p2p-fill', style: fill }),
        bar.ends.map((side) => handle(bar, side))
      ),
      make('span', { class: 'p2p-range' }, range),
      bar.remove ? removal(bar) : make('span', { class: 'p2p-remove' })
    )
  }

  function removal({ key, label, remove }) {
    const title = t('Remove the window of {word}', { word: label })
    const properties = { type: 'button', class: 'p2p-remove', 'data-key': `${key} remove`, title, 'aria-label': title }
    return make('button', { ...properties, onclick: () => host.transact(remove) }, '×')
  }

  function handle(bar, side) {
    const name =
      side === 'start'
        ? t('{label}: start, as a fraction of the steps', bar)
        : t('{label}: end, as a fraction of the steps', bar)
    return make('span', {
      class: `p2p-end p2p-end-${side}`,
      style: `left:${100 * bar[side]}%`,
      role: 'slider',
      tabindex: '0',
      'data-key': `${bar.key} ${side}`,
      'data-track': bar.key,
      'data-side': side,
      'aria-label': name,
      'aria-valuemin': side === 'start' ? '0' : number(bar.start),
      'aria-valuemax': side === 'start' ? number(bar.end) : '1',
      'aria-valuenow': number(bar[side])
    })
  }
}

/** Where on a track the pointer is, 0 to 1. */
function place(track, event) {
  const { left, width } = track.getBoundingClientRect()
  return width ? (event.clientX - left) / width : 0
}

function nearest(bar, to) {
  if (bar.ends.length === 1) return bar.ends[0]
  return Math.abs(to - bar.start) < Math.abs(to - bar.end) ? 'start' : 'end'
}
