import assert from 'node:assert/strict'
import test from 'node:test'

import { entriesFor, factorOf, meant, setFactor, splitNames, toggle } from '../../web/names.js'

const words = (...texts) => {
  const seen = {}
  return texts.map((text) => {
    const many = texts.filter((each) => each === text).length > 1
    seen[text] = (seen[text] ?? 0) + 1
    return { text, name: many ? `${text}#${seen[text]}` : text }
  })
}
const source = words('a', 'cat', 'on', 'a', 'mat', 'at', 'night')
const choice = (prompt, word, prompts = [source]) => ({ name: prompts[prompt][word].name, places: [[prompt, word]] })

test('names are separated by commas and lines', () => {
  assert.deepEqual(splitNames(' cat, at night\nmat ,,\n'), ['cat', 'at night', 'mat'])
  assert.deepEqual(splitNames(''), [])
})

test('a name may hold a comma, in quotes or behind a backslash', () => {
  assert.deepEqual(splitNames('cat, "a, b", c\\, d\ne'), ['cat', 'a, b', 'c, d', 'e'])
  assert.deepEqual(splitNames('"cat", a "big, dog'), ['"cat"', 'a "big', 'dog'])
  const odd = words('cat', '),', 'dog')
  assert.equal(toggle('dog', [odd], choice(0, 1, [odd])), 'dog, )\\,')
  assert.equal(toggle('dog, )\\,', [odd], choice(0, 1, [odd])), 'dog')
})

test('names are found by letters, whatever stands in one piece with them', () => {
  const tags = words('pokemon', '(', 'creature', '),', 'smile', '(', 'creature', ')')
  assert.deepEqual(meant('(creature)', tags), [1, 2, 3, 5, 6, 7])
  assert.deepEqual(meant('\\(creature\\)#2', tags), [5, 6, 7])
  assert.deepEqual(meant('reature', tags), [])
})

test('an entry means a word, all its occurrences, one of them, or a phrase', () => {
  assert.deepEqual(meant('cat', source), [1])
  assert.deepEqual(meant('CAT ', source), [1])
  assert.deepEqual(meant('a', source), [0, 3])
  assert.deepEqual(meant('a#2', source), [3])
  assert.deepEqual(meant('a#3', source), [])
  assert.deepEqual(meant('At  night', source), [5, 6])
  assert.deepEqual(meant('dog', source), [])
  assert.deepEqual(meant('', source), [])
})

test('picking adds the name, picking again takes it out', () => {
  assert.equal(toggle('', [source], choice(0, 1)), 'cat')
  assert.equal(toggle('cat', [source], choice(0, 4)), 'cat, mat')
  assert.equal(toggle('cat, mat', [source], choice(0, 1)), 'mat')
  assert.equal(toggle('Cat', [source], choice(0, 1)), '')
})

test('of a name that means several, the others stay', () => {
  assert.equal(toggle('a', [source], choice(0, 0)), 'a#2')
  assert.equal(toggle('a#2, cat', [source], choice(0, 3)), 'cat')
})

test('a phrase goes as a whole, and what no word explains stays', () => {
  assert.equal(toggle('at night, dog', [source], choice(0, 6)), 'dog')
  assert.deepEqual(entriesFor('at night, dog', [source], choice(0, 6)), ['at night'])
})

test('a word of several prompts is one choice', () => {
  const target = words('a', 'dog', 'on', 'a', 'mat')
  const mat = { name: 'mat', places: [[0, 4], [1, 4]] }
  assert.equal(toggle('', [source, target], mat), 'mat')
  assert.equal(toggle('mat', [source, target], mat), '')
})

test('an entry with a factor means its word, unless the prompt has just these characters', () => {
  assert.deepEqual(meant('cat: 2', source), [1])
  assert.deepEqual(meant('a#2:-0.5', source), [3])
  assert.deepEqual(meant('at night: .5', source), [5, 6])
  const ratio = words('a', '16:9', 'picture')
  assert.deepEqual(meant('16:9', ratio), [1])
  assert.equal(factorOf('16:9', [ratio], choice(0, 1, [ratio])), null)
  assert.deepEqual(meant('16:9: 2', ratio), [1])
})

test('a factor is read, the last one counts', () => {
  assert.equal(factorOf('cat: 2, mat', [source], choice(0, 1)), 2)
  assert.equal(factorOf('cat: 2, mat\ncat: -0.5', [source], choice(0, 1)), -0.5)
  assert.equal(factorOf('cat: 2, mat', [source], choice(0, 4)), null)
  assert.equal(factorOf('', [source], choice(0, 4)), null)
})

test('a factor is written in the place of what was there', () => {
  assert.equal(setFactor('', [source], choice(0, 1), 1.5), 'cat: 1.5')
  assert.equal(setFactor('cat, mat: 2', [source], choice(0, 1), 0.30000000000000004), 'mat: 2, cat: 0.3')
  assert.equal(setFactor('cat: 2, mat', [source], choice(0, 1), -1), 'mat, cat: -1')
  assert.equal(setFactor('a: 2', [source], choice(0, 0), 3), 'a#2: 2, a#1: 3')
})

test('picking a word with a factor takes it out, the others keep theirs', () => {
  assert.equal(toggle('cat: 2, mat: 0.5', [source], choice(0, 1)), 'mat: 0.5')
  assert.equal(toggle('a: 2', [source], choice(0, 0)), 'a#2: 2')
})
