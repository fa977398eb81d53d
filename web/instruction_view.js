/** P2P Edit: a sentence instead of an edited prompt. What it makes of the prompts is shown, and written when one agrees. */

import { make, redraw } from './elements.js'
import { instructed } from './instructions.js'
import { note } from './pair_view.js'
import { t } from './texts.js'

/** @param host see p2p.js. Nothing of the sentence is kept: only `target` and `words`, once it is written. */
export function instructionView(host) {
  const shown = make('div', { class: 'p2p-instructed', 'aria-live': 'polite' })
  const box = make('input', {
    type: 'text',
    class: 'p2p-instruction',
    'data-key': 'instruction',
    oninput: () => host.look(),
    onkeydown: (event) => {
      event.stopPropagation() // a Delete here deletes no node
      if (event.key === 'Enter' && !event.isComposing) write()
      if (event.key === 'Escape') clear()
    }
  })
  return {
    element: make('div', {}, box, shown),
    state: () => ({ sentence: box.value, ...prompts(), linked: ['source', 'target'].some(host.connected) }),
    show({ sentence, linked }) {
      box.hidden = linked // they are written elsewhere
      box.placeholder = t('Say it: make the cat a dog')
      box.title = t(
        'For example: make the cat a dog; cat -> dog; add: at night; remove: hat; more snow. It writes the target.'
      )
      box.setAttribute('aria-label', t('What to change, as a sentence'))
      if (!sentence.trim() || linked) return redraw(shown, null)
      const made = told()
      redraw(shown, made.error ? note({ hint: made.error }) : preview(made))
    }
  }

  function prompts() {
    return { source: host.value('source') ?? '', target: host.value('target') ?? '', words: host.value('words') ?? '' }
  }

  function told() {
    return instructed(box.value, prompts())
  }

  function preview({ edit, words }) {
    const faders = words === prompts().words.trim() ? null : make('div', {}, words.replaceAll('\n', ', '))
    const button = make(
      'button',
      { type: 'button', class: 'p2p-chip p2p-pick p2p-swapped', 'data-key': 'write', title: 'Enter', onclick: write },
      t('write it')
    )
    return [make('p', { class: 'p2p-note' }, edit, faders), button]
  }

  function write() {
    const made = told()
    if (!box.value.trim() || made.error) return
    host.transact(() => {
      host.set('target', made.target)
      if (made.words !== prompts().words.trim()) host.set('words', made.words)
    })
    clear()
  }

  function clear() {
    box.value = ''
    host.look()
  }
}
