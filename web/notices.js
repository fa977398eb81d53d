/**
 * What a person should know of a run stays on its node. The page shows such a text itself (`progress_text`), but newer
 * ones (1.58) take it off again when the run is over: so it is shown once more.
 */

const AFTER_MS = 100 // the page has put the run away

/** `api` is the page's connection to the server, which says `p2p_notice` with each text for a node, and with its end. */
export function keepNotices(api, later = setTimeout) {
  const texts = new Map() // node -> text
  const showAgain = () => {
    for (const [node, text] of texts) api.dispatchCustomEvent('progress_text', { nodeId: node, text })
  }
  api.addEventListener('p2p_notice', ({ detail: { node, text } }) => {
    if (text.trim()) texts.set(node, text)
    else texts.delete(node)
  })
  for (const end of ['execution_success', 'execution_error', 'execution_interrupted']) {
    api.addEventListener(end, () => later(showAgain, AFTER_MS))
  }
}
