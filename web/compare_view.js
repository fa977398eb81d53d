/** P2P Compare: the source over an edit, in the ways in which two pictures can be compared. */

import { make, redraw, toggleButton } from './elements.js'
import { note } from './pair_view.js'

const WAYS = {
  line: 'Source left of the line, edit right of it: move it.',
  flip: 'The edit; the source while you press on it.',
  difference: 'Black where they are the same.',
  all: 'All seeds and edits: click on one to compare it.'
}

/**
 * @param host see p2p.js; the node puts out `p2p_compare`: the rows of a seed, the pictures of all seeds, and for each how far
 * across it, 0 to 1, it differs from its source.
 */
export function compareView(host) {
  const element = make('div', { class: 'p2p-compare' })
  let [seed, edit, way] = [0, 1, 'line']
  let at = null // where the line is, in percent of the width; null until it is moved
  return {
    element,
    state: () => ({ compared: host.output()?.p2p_compare?.[0] ?? null, seed, edit, way }),
    show({ compared }) {
      if (!compared) return redraw(element, note({ hint: 'After a run: the source and the edit, with a line to move.' }))
      const { rows, pictures, lines } = compared
      const seeds = pictures.length / rows.length
      seed = Math.min(seed, seeds - 1)
      edit = Math.min(edit, rows.length - 1)
      const place = (row, of = seed) => of * rows.length + row
      const url = (row, of = seed) => host.picture(pictures[place(row, of)])
      const several = pictures.length > 2
      if (way === 'all' && !several) way = 'line'
      redraw(
        element,
        choice('way', Object.keys(WAYS).filter((name) => several || name !== 'all').map((name) => [name, name]), way, (name) => (way = name)),
        way === 'all'
          ? table(rows, seeds, url)
          : [
              choice('edit', rows.map(({ name }, row) => [name, row]).slice(1), edit, (row) => (edit = row)),
              choice('seed', Array.from({ length: seeds }, (_, i) => [`seed ${i + 1}`, i]), seed, (i) => (seed = i)),
              stage(url(0), url(edit), named(rows[edit]), at ?? Math.round(100 * (lines?.[place(edit)] ?? 0.5))),
              said(rows[0], url(0)),
              said(rows[edit], url(edit))
            ]
      )
    }
  }

  function choice(label, entries, chosen, choose) {
    if (entries.length < 2) return null
    const buttons = entries.map(([name, value]) =>
      toggleButton(
        {
          on: value === chosen,
          class: 'p2p-chip p2p-pick p2p-shared',
          'data-key': `${label} ${value}`,
          title: label === 'way' ? WAYS[value] : null,
          onclick: () => {
            choose(value)
            host.look()
          }
        },
        name
      )
    )
    return make('div', { class: 'p2p-flow', role: 'group', 'aria-label': label }, buttons)
  }

  /** A prompt, and the picture at its own size. */
  function said({ name, prompt }, url) {
    const open = make('a', { href: url, target: '_blank', rel: 'noopener', title: `${name} at full size` }, '↗')
    return make('p', { class: 'p2p-note' }, make('b', {}, name), open, ' ', prompt)
  }

  /** Seeds down, source and edits across. */
  function table(rows, seeds, url) {
    const heads = rows.map((row) => make('span', { class: 'p2p-note' }, named(row)))
    const cells = Array.from({ length: seeds }, (_, of) =>
      rows.map((row, i) =>
        make(
          'button',
          {
            type: 'button',
            class: 'p2p-cell-picture',
            'data-key': `picture ${of} ${i}`,
            title: `seed ${of + 1}, ${named(row)}`,
            onclick: () => {
              ;[seed, edit, way] = [of, Math.max(i, 1), 'line']
              host.look()
            }
          },
          picture(url(i, of), `seed ${of + 1}, ${row.name}`)
        )
      )
    )
    return make('div', { class: 'p2p-table', style: `--p2p-across:${rows.length}` }, heads, cells)
  }

  function picture(src, alt, more) {
    return make('img', { src, alt, draggable: false, onload: host.resized, ...more })
  }

  function stage(source, edited, name, line) {
    const stage = make(
      'div',
      { class: `p2p-stage p2p-by-${way}`, style: `--p2p-at:${line}%` },
      picture(source, 'source'),
      picture(edited, name, { class: 'p2p-over' })
    )
    if (way === 'difference') {
      stage.append(make('span', { class: 'p2p-tag' }, `difference × 3: ${name}`))
    } else if (way === 'flip') {
      stage.append(...flipper(stage, name))
    } else {
      const tags = [make('span', { class: 'p2p-tag' }, 'source'), make('span', { class: 'p2p-tag p2p-tag-right' }, name)]
      stage.append(make('span', { class: 'p2p-line-at' }), ...tags, slider(stage, name, line))
    }
    return stage
  }

  function slider(stage, name, line) {
    const slider = make('input', {
      type: 'range',
      min: 0,
      max: 100,
      step: 1,
      value: line,
      'data-key': 'line',
      'aria-label': `The source is left of the line, ${name} right of it`,
      oninput: () => {
        at = Number(slider.value)
        stage.style.setProperty('--p2p-at', `${at}%`)
      }
    })
    return slider
  }

  function flipper(stage, name) {
    const tag = make('span', { class: 'p2p-tag' }, name)
    const turn = (pressed) => {
      stage.classList.toggle('p2p-pressed', pressed)
      tag.textContent = pressed ? 'source' : name
    }
    const keys = [' ', 'Enter']
    const button = make('button', {
      type: 'button',
      class: 'p2p-flipper',
      'data-key': 'flip',
      'aria-label': `${name}; the source while it is pressed`,
      onpointerdown: () => turn(true),
      onpointerup: () => turn(false),
      onpointerleave: () => turn(false),
      onkeydown: (event) => keys.includes(event.key) && turn(true),
      onkeyup: () => turn(false)
    })
    return [tag, button]
  }
}

/** `edit 1: cat → dog` */
export function named({ name, changed }) {
  return changed ? `${name}: ${changed}` : name
}
