import assert from 'node:assert/strict'
import test from 'node:test'

import { isDecided, readLine, withLine, withoutWord } from '../../web/alignment.js'

test('lines', () => {
  assert.deepEqual(readLine(' cat -> big dog '), { source: 'cat', target: 'big dog' })
  assert.deepEqual(readLine('cat=>dog'), { source: 'cat', target: 'dog' })
  assert.deepEqual(readLine('+ hat'), { source: null, target: 'hat' })
  assert.deepEqual(readLine('-hat'), { source: 'hat', target: null })
  for (const line of ['', 'cat', '---', '+', '- ']) assert.equal(readLine(line), null)
})

test('a new line takes the place of those about the same words', () => {
  assert.equal(withLine('', { source: 'cat', target: 'dog' }), 'cat -> dog')
  assert.equal(withLine('cat -> dog\n+ hat', { source: 'Cat', target: 'fox' }), '+ hat\nCat -> fox')
  assert.equal(withLine('cat -> dog\nmat -> rug', { target: 'dog' }), 'mat -> rug\n+ dog')
  assert.equal(withLine('cat -> dog', { source: 'cat' }), '- cat')
  assert.equal(withLine('what is this', { source: 'cat', target: 'dog' }), 'what is this\ncat -> dog')
})

test('where every edit has its part, the line goes into its own', () => {
  assert.equal(withLine('cat -> dog\n---\ncat -> fox', { target: 'hat' }, 1), 'cat -> dog\n---\ncat -> fox\n+ hat')
  assert.equal(withLine('cat -> dog', { target: 'hat' }, 1), 'cat -> dog\n+ hat')
  assert.equal(withoutWord('cat -> dog\n---\ncat -> fox', { source: 'cat' }, 0), '---\ncat -> fox')
})

test('what is decided', () => {
  assert.equal(isDecided('cat -> dog', { target: 'dog' }), true)
  assert.equal(isDecided('cat -> dog', { source: 'dog' }), false)
  assert.equal(isDecided('cat -> dog\n---\n', { source: 'cat' }, 1), false)
})
