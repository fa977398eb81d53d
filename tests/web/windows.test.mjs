import assert from 'node:assert/strict'
import test from 'node:test'

import { moveEnd, readWindows, removeWindow, setWindow, unreadable } from '../../web/windows.js'

test('lines are read as the nodes read them', () => {
  assert.deepEqual(readWindows('lion: 0.4\n  grey cat : .2 - 1.0 \n\ncat#2:1'), [
    { name: 'lion', start: 0, end: 0.4 },
    { name: 'grey cat', start: 0.2, end: 1 },
    { name: 'cat#2', start: 0, end: 1 }
  ])
})

test('what the node will refuse is told apart', () => {
  const text = 'lion\nlion: x\nlion: 0.6-0.4\nlion: 1.2\n: 0.4\nlion: -0.1\nlion: 0.4'
  assert.equal(readWindows(text).length, 1)
  assert.deepEqual(unreadable(text), ['lion', 'lion: x', 'lion: 0.6-0.4', 'lion: 1.2', ': 0.4', 'lion: -0.1'])
})

test('a window takes the place of its line, or a new one', () => {
  assert.equal(setWindow('', 'lion', 0, 0.4), 'lion: 0.4')
  assert.equal(setWindow('lion: 0.4', 'cat', 0.1, 0.5), 'lion: 0.4\ncat: 0.1-0.5')
  assert.equal(setWindow('odd line\nLion: 0.4\ncat: 1', 'lion', 0.25, 0.333), 'odd line\nlion: 0.25-0.33\ncat: 1')
})

test('of two lines for a word the last one counts and is set, and both are removed', () => {
  assert.equal(setWindow('cat: 0.1\ncat: 0.2', 'cat', 0, 0.3), 'cat: 0.1\ncat: 0.3')
  assert.equal(removeWindow('cat: 0.1\nlion: 1\nCat: 0.2', 'cat'), 'lion: 1')
})

test('writing and reading give the same window', () => {
  for (const [start, end] of [[0, 0], [0, 1], [0.01, 0.99], [0.5, 0.5], [1, 1]]) {
    assert.deepEqual(readWindows(setWindow('', 'a word', start, end)), [{ name: 'a word', start, end }])
  }
})

test('an end moves by hundredths and stops at the other one', () => {
  const window = { start: 0.2, end: 0.8 }
  assert.deepEqual(moveEnd(window, 'start', 0.3333), { start: 0.33, end: 0.8 })
  assert.deepEqual(moveEnd(window, 'start', 0.9), { start: 0.8, end: 0.8 })
  assert.deepEqual(moveEnd(window, 'start', -1), { start: 0, end: 0.8 })
  assert.deepEqual(moveEnd(window, 'end', 7), { start: 0.2, end: 1 })
  assert.deepEqual(moveEnd(window, 'end', 0), { start: 0.2, end: 0.2 })
})
