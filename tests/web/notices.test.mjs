/** Texts on nodes outlive the run that said them, until the server takes them back. */

import assert from 'node:assert/strict'
import test from 'node:test'
import { keepNotices } from '../../web/notices.js'

class Api extends EventTarget {
  shown = []
  dispatchCustomEvent(type, detail) {
    this.shown.push([type, detail])
  }
  say(type, detail) {
    this.dispatchEvent(Object.assign(new Event(type), { detail }))
  }
}

test('a text is shown again when a run has ended, whichever way', () => {
  for (const end of ['execution_success', 'execution_error', 'execution_interrupted']) {
    const api = new Api()
    keepNotices(api, (call) => call())
    api.say('p2p_notice', { node: '7', text: 'unusual' })
    assert.deepEqual(api.shown, [])
    api.say(end, {})
    assert.deepEqual(api.shown, [['progress_text', { nodeId: '7', text: 'unusual' }]])
  }
})

test('a text that was taken back is not', () => {
  const api = new Api()
  keepNotices(api, (call) => call())
  api.say('p2p_notice', { node: '7', text: 'unusual' })
  api.say('p2p_notice', { node: '7', text: ' ' })
  api.say('execution_success', {})
  assert.deepEqual(api.shown, [])
})
