/** P2P Edit: strengths by name, and which single nodes do the same as the last run. */

import { make, redraw, toggleButton } from './elements.js'
import { t } from './texts.js'

const OF_A_PHOTOGRAPH = ['steps', 'scheduler', 'denoise']
const PRESETS = [
  [() => t('subtle'), 0.25],
  [() => t('balanced'), 0.5],
  [() => t('free'), 0.75]
]

/** @param host see p2p.js; the node puts out `p2p_did`: of each single node its name and its inputs. */
export function editView(host) {
  const element = make('div', { class: 'p2p-edit' })
  return {
    element,
    state: () => ({
      strength: Number(host.value('strength')),
      keep: host.value('keep'),
      photograph: host.connected('latent_image') || OF_A_PHOTOGRAPH.some(host.connected),
      did: host.output()?.p2p_did ?? []
    }),
    show({ strength, keep, photograph, did }) {
      for (const name of OF_A_PHOTOGRAPH) host.fold(name, !photograph)
      redraw(element, keep === 'nothing' ? null : presets(strength), did.length ? nodes(did) : null)
    }
  }

  function presets(strength) {
    const buttons = PRESETS.map(([name, value]) =>
      toggleButton(
        {
          on: Math.abs(strength - value) < 0.005,
          class: 'p2p-chip p2p-pick p2p-shared',
          'data-key': `strength ${value}`,
          title: t('strength {value}', { value }),
          onclick: () => host.set('strength', value)
        },
        name()
      )
    )
    return make('div', { class: 'p2p-flow', role: 'group', 'aria-label': t('strength') }, buttons)
  }

  function nodes(did) {
    const lines = did.map(({ node, inputs }) =>
      make('li', {}, make('b', {}, node), ' ', settings(inputs))
    )
    const said = make('p', { class: 'p2p-note' }, t('The last run was the same as:'))
    return make('div', { class: 'p2p-did' }, said, make('ul', {}, lines))
  }
}

/** `cross_end 0.8, self_end 0.4`; several lines of a text box become one. */
export function settings(inputs) {
  return Object.entries(inputs)
    .map(([name, value]) => `${name} ${String(value).replace(/\s*\n\s*/g, ', ')}`)
    .join(', ')
}
