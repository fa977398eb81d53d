import assert from 'node:assert/strict'
import test from 'node:test'

import { Draw, firstChoices, hasChoices } from '../../web/choices.js'

const numbers = (...given) => () => given.shift()

test('what both texts leave to chance is chosen alike', () => {
  for (let i = 0; i < 50; i++) {
    const draw = new Draw()
    const source = draw.resolve('a {cat|dog|fox} on {grass|snow}')
    const target = draw.resolve('a lion on {grass|snow}, near a {cat|dog|fox}')
    assert.equal(source.match(/grass|snow/)[0], target.match(/grass|snow/)[0])
    assert.equal(source.match(/cat|dog|fox/)[0], target.match(/cat|dog|fox/)[0])
  }
})

test('a group that stands there twice is drawn twice, and so in every edit', () => {
  const draw = new Draw(numbers(0, 0.9))
  assert.equal(draw.resolve('{a|b} {a|b}'), 'a b')
  assert.equal(draw.resolve('{a|b} {a|b}\n---\n{a|b} x {a|b}'), 'a b\n---\na x b')
})

test('as the page reads it: comments, nesting, escapes, a group that is never closed', () => {
  const last = (text) => new Draw(() => 0.99).resolve(text)
  assert.equal(last('a cat // comment {a|b}\n/* more\n */on grass'), 'a cat \non grass')
  assert.equal(last('a {x|{b|c} d}'), 'a c d')
  assert.equal(last('a \\{b\\|c\\} {d\\|e|f\\}}'), 'a {b|c} f}')
  assert.equal(last('a {b|c'), 'a c')
  assert.equal(last('\\(a:1\\)'), '\\(a:1\\)')
  assert.equal(last('{}'), '')
})

test('while one types the first of each is shown', () => {
  assert.equal(firstChoices('a {cat|dog} // x'), 'a cat ')
  assert.equal(hasChoices('a {cat|dog}'), true)
  assert.equal(hasChoices('{a}'), true)
  assert.equal(hasChoices('a \\{cat\\} // {a|b}'), false)
})
