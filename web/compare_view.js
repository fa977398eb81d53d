/** P2P Compare: the source on the left of a line, the edit on the right of it; the line can be moved. */

import { make, redraw, toggleButton } from './elements.js'
import { note } from './pair_view.js'

/** @param host see p2p.js; the node puts out `p2p_compare`: the rows of a seed, and the pictures of all seeds. */
export function compareView(host) {
  const element = make('div', { class: 'p2p-compare' })
  let [seed, edit, at] = [0, 1, 50] // at: where the line is, in percent of the width
  return {
    element,
    state: () => ({ compared: host.output()?.p2p_compare?.[0] ?? null, seed, edit }),
    show({ compared }) {
      if (!compared) return redraw(element, note({ hint: 'After a run: the source and the edit, with a line to move.' }))
      const { rows, pictures } = compared
      const seeds = pictures.length / rows.length
      seed = Math.min(seed, seeds - 1)
      edit = Math.min(edit, rows.length - 1)
      const url = (row) => host.picture(pictures[seed * rows.length + row])
      redraw(
        element,
        choice('edit', rows.map(({ name }, row) => [name, row]).slice(1), edit, (row) => (edit = row)),
        choice('seed', Array.from({ length: seeds }, (_, i) => [`seed ${i + 1}`, i]), seed, (i) => (seed = i)),
        stage(url(0), url(edit), rows[edit].name),
        make('p', { class: 'p2p-note' }, make('b', {}, 'source'), rows[0].prompt),
        make('p', { class: 'p2p-note' }, make('b', {}, rows[edit].name), rows[edit].prompt)
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

  function stage(source, edited, name) {
    const picture = (src, alt, more) => make('img', { src, alt, draggable: false, onload: host.resized, ...more })
    const stage = make(
      'div',
      { class: 'p2p-stage', style: `--p2p-at:${at}%` },
      picture(source, 'source'),
      picture(edited, name, { class: 'p2p-over' }),
      make('span', { class: 'p2p-line-at' }),
      make('span', { class: 'p2p-tag' }, 'source'),
      make('span', { class: 'p2p-tag p2p-tag-right' }, name)
    )
    const slider = make('input', {
      type: 'range',
      min: 0,
      max: 100,
      step: 1,
      value: at,
      'data-key': 'line',
      'aria-label': `The source is left of the line, ${name} right of it`,
      oninput: () => {
        at = Number(slider.value)
        stage.style.setProperty('--p2p-at', `${at}%`)
      }
    })
    stage.append(slider)
    return stage
  }
}
