/** Words to pick instead of typing them: P2P Reweight Token, P2P Record Attention, P2P Local Blend Mask. */

import { choicesOf, kindName } from './columns.js'
import { followDrag } from './drags.js'
import { make, opener, redraw, toggleButton } from './elements.js'
import { entriesFor, factorOf, setFactor, toggle } from './names.js'
import { note } from './pair_view.js'
import { t } from './texts.js'

const PER_PIXEL = 0.02
const SCALES = [-20, 20] // least and most that the nodes take
const STEPS = { ArrowUp: 0.1, ArrowDown: -0.1, PageUp: 1, PageDown: -1 }

/**
 * @param host see p2p.js.
 * @param {{widget: string, label: () => string, mark: string, more?: () => string, fold?: boolean, factor?: (host) =>
 * number}[]} boxes the text boxes that the words go into; one with `more` is shown when that is opened, or something is
 * in it, and with `fold` so is the text box itself; in one with `factor`, that of words without their own, words are
 * faders, which are dragged up and down.
 * @param {boolean | 'every prompt' | 'alone'} source whether the source's words can be picked, too; `alone`: where there is
 * no edited prompt, for faders of the source's own; `every prompt` is both, whichever edit the node is about.
 */
export function wordsView(host, boxes, source) {
  const element = make('div', { class: 'p2p-words' })
  const open = Object.fromEntries(boxes.map(({ widget, more }) => [widget, !more]))
  const choicesNow = (answer, edit) =>
    choicesOf(answer, { source: source === 'alone' ? !answer.edits.length : Boolean(source), edit })
  for (const box of boxes.filter(({ factor }) => factor)) dragFaders(host, element, box, choicesNow)
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
      texts: boxes.map(({ widget }) => host.value(widget)),
      factors: boxes.map(({ factor }) => factor?.(host))
    }),
    show({ told, edit, texts }) {
      for (const [i, { widget, fold }] of boxes.entries()) if (fold) host.fold(widget, !open[widget] && !texts[i])
      element.classList.toggle('p2p-pending', Boolean(told.pending))
      if (!told.answer || told.hint) return redraw(element, boxes.every(({ more }) => more) ? null : note(told)) // said above
      const prompts = told.answer.prompts.map(({ words }) => words)
      const choices = choicesNow(told.answer, edit)
      const rows = boxes.map((box, i) => [
        box.more && opener({ open: open[box.widget], onclick: () => openOrClose(box.widget) }, box.more()),
        (open[box.widget] || texts[i]) && row(host, box, texts[i], prompts, choices)
      ])
      redraw(element, rows)
    }
  }
}

function row(host, box, text, prompts, choices) {
  const { widget, label, mark, factor } = box
  const chips = choices.map((choice) => {
    const on = entriesFor(text, prompts, choice).length > 0
    const own = factor && on ? factorOf(text, prompts, choice) ?? factor(host) : null
    return toggleButton(
      {
        on,
        class: `p2p-chip p2p-pick p2p-${choice.kind}${factor ? ' p2p-fader' : ''}`,
        'data-key': `${widget} ${choice.name}`,
        'data-fader': factor ? choice.name : null,
        title: clicked(choice, box, on),
        onclick: () => host.set(widget, toggled(host, box, prompts, choice)),
        onkeydown: (event) => {
          const step = factor && STEPS[event.key]
          if (!step) return
          event.preventDefault()
          event.stopPropagation()
          fade(host, box, prompts, choice, (factorNow(host, box, prompts, choice) ?? 1) + step)
        }
      },
      on && mark ? make('span', { class: 'p2p-mark', 'aria-hidden': 'true' }, mark) : null,
      choice.name,
      own === null ? null : make('sup', {}, `× ${Number(own.toFixed(2))}`)
    )
  })
  const empty = chips.length ? null : note({ hint: t('There is no such edited prompt.') })
  return make('div', { class: 'p2p-flow', role: 'group', 'aria-label': label() }, chips, empty)
}

/** What a click does, and a drag. */
function clicked({ name, kind }, { widget, factor }, on) {
  const values = { word: name, kind: kindName(kind), box: widget }
  const click = on
    ? t('{word} ({kind}): take it out of {box}', values)
    : t('{word} ({kind}): put it into {box}', values)
  return factor ? t('{click}. Drag up or down, or use the arrow keys, for more or less of it', { click }) : click
}

/** A fader without a factor for all words needs one of its own. */
function toggled(host, { widget, factor }, prompts, choice) {
  const text = host.value(widget)
  const off = !entriesFor(text, prompts, choice).length
  return factor && factor(host) === null && off ? setFactor(text, prompts, choice, 2) : toggle(text, prompts, choice)
}

/** What a word is multiplied by; null where it is not faded. */
function factorNow(host, { widget, factor }, prompts, choice) {
  const text = host.value(widget)
  return entriesFor(text, prompts, choice).length ? factorOf(text, prompts, choice) ?? factor(host) : null
}

function fade(host, { widget }, prompts, choice, to) {
  const factor = Math.max(SCALES[0], Math.min(SCALES[1], to))
  host.set(widget, setFactor(host.value(widget), prompts, choice, factor))
}

/** Up is more of a word, down is less; from where it stands, and from 1 if it is not faded yet. */
function dragFaders(host, element, box, choicesNow) {
  element.addEventListener('pointerdown', (event) => {
    const chip = event.target.closest('[data-fader]')
    const told = host.comparison()
    if (!chip || event.button !== 0 || !told.answer) return
    const prompts = told.answer.prompts.map(({ words }) => words)
    const choice = choicesNow(told.answer, Number(host.value('edit') ?? 0)).find(({ name }) => name === chip.dataset.fader)
    const from = factorNow(host, box, prompts, choice) ?? 1
    followDrag(event, {
      start: host.begin,
      move: ({ clientY }) => {
        const to = from + (event.clientY - clientY) * PER_PIXEL
        fade(host, box, prompts, choice, Math.round(to * 20) / 20)
      },
      end: host.end
    })
  })
}
