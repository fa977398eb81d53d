/** Words to pick instead of typing them: P2P Reweight Token, P2P Record Attention, P2P Local Blend Mask. */

import { choicesOf } from './columns.js'
import { make, opener, redraw, toggleButton } from './elements.js'
import { entriesFor, toggle } from './names.js'
import { note } from './pair_view.js'

/**
 * @param host see p2p.js.
 * @param {{widget: string, label: string, mark: string, more?: string}[]} boxes the text boxes that the words go into;
 * one with `more` is shown when that is opened, or something is in it.
 * @param {boolean} source whether the source's words can be picked, too.
 */
export function wordsView(host, boxes, source) {
  const element = make('div', { class: 'p2p-words' })
  const open = Object.fromEntries(boxes.map(({ widget, more }) => [widget, !more]))
  const openOrClose = (widget) => {
    open[widget] = !open[widget]
    host.look()
  }
  return {
    element,
    state: () => ({
      open: { ...open },
      told: host.comparison(),
      edit: source === 'every prompt' ? 0 : Number(host.value('edit') ?? 0),
      texts: boxes.map(({ widget }) => host.value(widget))
    }),
    show({ told, edit, texts }) {
      element.classList.toggle('p2p-pending', Boolean(told.pending))
      if (!told.answer || told.hint) return redraw(element, note(told))
      const prompts = told.answer.prompts.map(({ words }) => words)
      const choices = choicesOf(told.answer, { source: Boolean(source), edit })
      const rows = boxes.map((box, i) => [
        box.more && opener({ open: open[box.widget], onclick: () => openOrClose(box.widget) }, box.more),
        (open[box.widget] || texts[i]) && row(host, box, texts[i], prompts, choices)
      ])
      redraw(element, rows)
    }
  }
}

function row(host, { widget, label, mark }, text, prompts, choices) {
  const chips = choices.map((choice) => {
    const on = entriesFor(text, prompts, choice).length > 0
    return toggleButton(
      {
        on,
        class: `p2p-chip p2p-pick p2p-${choice.kind}`,
        'data-key': `${widget} ${choice.name}`,
        title: `${choice.name} (${choice.kind}): ${on ? `take it out of ${widget}` : `put it into ${widget}`}`,
        onclick: () => host.set(widget, toggle(host.value(widget), prompts, choice))
      },
      on ? make('span', { class: 'p2p-mark', 'aria-hidden': 'true' }, mark) : null,
      choice.name
    )
  })
  const empty = chips.length ? null : note({ hint: 'There is no such edited prompt.' })
  return make('div', { class: 'p2p-flow', role: 'group', 'aria-label': `pick ${label}` }, chips, empty)
}
