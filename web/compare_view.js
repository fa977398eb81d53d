/** P2P Compare: the source over an edit, in the ways in which two pictures can be compared. */

import { make, redraw, toggleButton } from './elements.js'
import { note } from './pair_view.js'
import { t } from './texts.js'

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
      const nothingYet = t('After a run: the source and the edit, with a line to move.')
      if (!compared) return redraw(element, note({ hint: nothingYet }))
      const { rows, pictures, lines } = compared
      const seeds = pictures.length / rows.length
      seed = Math.min(seed, seeds - 1)
      edit = Math.min(edit, rows.length - 1)
      const place = (row, of = seed) => of * rows.length + row
      const url = (row, of = seed) => host.picture(pictures[place(row, of)])
      const several = pictures.length > 2
      if (way === 'all' && !several) way = 'line'
      const seedNames = Array.from({ length: seeds }, (_, i) => [t('seed {number}', { number: i + 1 }), i])
      redraw(
        element,
        choice('way', t('way'), ways().filter(([, value]) => several || value !== 'all'), way, (name) => (way = name)),
        way === 'all'
          ? table(rows, seeds, url)
          : [
              choice('edit', t('edit'), rows.map((row, i) => [nameOf(row), i]).slice(1), edit, (i) => (edit = i)),
              choice('seed', t('seed'), seedNames, seed, (i) => (seed = i)),
              stage(url(0), url(edit), named(rows[edit]), at ?? Math.round(100 * (lines?.[place(edit)] ?? 0.5))),
              said(rows[0], url(0)),
              said(rows[edit], url(edit))
            ]
      )
    }
  }

  /** `entries` are [name, value, what it shows]. */
  function choice(key, label, entries, chosen, choose) {
    if (entries.length < 2) return null
    const buttons = entries.map(([name, value, title]) =>
      toggleButton(
        {
          on: value === chosen,
          class: 'p2p-chip p2p-pick p2p-shared',
          'data-key': `${key} ${value}`,
          title,
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
  function said(row, url) {
    const name = nameOf(row)
    const title = t('{name} at full size', { name })
    const open = make('a', { href: url, target: '_blank', rel: 'noopener', title }, '↗')
    return make('p', { class: 'p2p-note' }, make('b', {}, name), open, ' ', row.prompt)
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
            title: t('seed {number}, {name}', { number: of + 1, name: named(row) }),
            onclick: () => {
              ;[seed, edit, way] = [of, Math.max(i, 1), 'line']
              host.look()
            }
          },
          picture(url(i, of), t('seed {number}, {name}', { number: of + 1, name: nameOf(row) }))
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
      picture(source, t('source')),
      picture(edited, name, { class: 'p2p-over' })
    )
    if (way === 'difference') {
      stage.append(make('span', { class: 'p2p-tag' }, t('difference × 3: {name}', { name })))
    } else if (way === 'flip') {
      stage.append(...flipper(stage, name))
    } else {
      stage.append(
        make('span', { class: 'p2p-line-at' }),
        make('span', { class: 'p2p-tag' }, t('source')),
        make('span', { class: 'p2p-tag p2p-tag-right' }, name),
        slider(stage, name, line)
      )
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
      'aria-label': t('The source is left of the line, {name} right of it', { name }),
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
      tag.textContent = pressed ? t('source') : name
    }
    const keys = [' ', 'Enter']
    const button = make('button', {
      type: 'button',
      class: 'p2p-flipper',
      'data-key': 'flip',
      'aria-label': t('{name}; the source while it is pressed', { name }),
      onpointerdown: () => turn(true),
      onpointerup: () => turn(false),
      onpointerleave: () => turn(false),
      onkeydown: (event) => keys.includes(event.key) && turn(true),
      onkeyup: () => turn(false)
    })
    return [tag, button]
  }
}

/** The ways to compare: [name, value, what it shows]. */
function ways() {
  return [
    [t('line'), 'line', t('Source left of the line, edit right of it: move it.')],
    [t('flip'), 'flip', t('The edit; the source while you press on it.')],
    [t('difference'), 'difference', t('Black where they are the same.')],
    [t('all'), 'all', t('All seeds and edits: click on one to compare it.')]
  ]
}

/** What the server calls `source`, `edit`, `edit 2` or `picture 3`. */
function nameOf({ name }) {
  const [what, number] = name.split(' ')
  if (what === 'source') return t('source')
  if (what === 'picture') return t('picture {number}', { number })
  return number ? t('edit {number}', { number }) : t('edit')
}

/** `edit 1: cat → dog` */
function named(row) {
  return row.changed ? `${nameOf(row)}: ${row.changed}` : nameOf(row)
}
