/** What a node will refuse, or do in vain, said while one types; no room where all is well. */

import { make, redraw } from './elements.js'
import { hintsOf, LOOKED_AT } from './hints.js'

/** @param host see p2p.js. */
export function hintsView(host) {
  const element = make('div', { class: 'p2p-hints' })
  return {
    element,
    state: () => hintsOf(host.kind, values(host), host.comparison(), host.around()),
    show: (sentences) => redraw(element, sentences.map(warning))
  }
}

/** What a link gives is not known before the run. */
function values(host) {
  const known = (name) => (host.connected(name) ? undefined : host.value(name))
  return Object.fromEntries(LOOKED_AT[host.kind].map((name) => [name, known(name)]))
}

function warning(sentence) {
  return make('p', { class: 'p2p-note p2p-warning', role: 'status' }, sentence)
}
