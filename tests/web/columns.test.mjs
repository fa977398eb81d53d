import assert from 'node:assert/strict'
import test from 'node:test'

import { choicesOf, columnsOf, counts, summary, tokenCount, wordsOf } from '../../web/columns.js'

const word = (text, more = {}) => ({ text, name: text, tokens: 1, chunk: 0, split: false, ...more })
const prompt = (...texts) => ({ tokens: texts.length, room: 75, chunks: 1, words: texts.map((each) => word(each)) })
const shared = (i, j = i) => ({ kind: 'shared', source: [i], target: [j] })
const answer = {
  prompts: [prompt('a', 'red', 'cat'), prompt('a', 'dog'), prompt('a', 'red', 'cat', 'asleep')],
  edits: [
    [shared(0), { kind: 'swapped', source: [1, 2], target: [1] }],
    [shared(0), shared(1), shared(2), { kind: 'new', source: [], target: [3] }]
  ]
}

test('each column holds the words that stand for each other', () => {
  const { columns, left } = columnsOf(answer, 0)
  assert.equal(left, 0)
  assert.deepEqual(columns.map(({ kind }) => kind), ['shared', 'swapped'])
  assert.deepEqual(columns[1].source.map(({ text }) => text), ['red', 'cat'])
  assert.deepEqual(columns[1].target.map(({ text }) => text), ['dog'])
})

test('a border stands before the first word of a chunk', () => {
  const long = prompt('a', 'b', 'c')
  long.words[2].chunk = 1
  assert.deepEqual(wordsOf(long).words.map(({ border }) => border), [false, false, true])
  long.words[1].split = true // then the border is inside that word
  assert.deepEqual(wordsOf(long).words.map(({ border }) => border), [false, false, false])
})

test('very long prompts are cut, and say by how much', () => {
  const long = prompt(...Array(1000).fill('x'))
  assert.equal(wordsOf(long).words.length + wordsOf(long).left, 1000)
  const same = { prompts: [long, long], edits: [long.words.map((_, i) => shared(i))] }
  const { columns, left } = columnsOf(same, 0)
  assert.equal(columns.length + left, 1000)
})

test('counts', () => {
  assert.equal(summary(counts(answer, 0)), '1 shared, 1 swapped')
  assert.equal(summary(counts(answer, 1)), '3 shared, 1 new')
  assert.equal(tokenCount(answer.prompts[0]), '3 of 75 tokens')
  assert.equal(tokenCount({ tokens: 80, room: 150, chunks: 2 }), '80 of 150 tokens in 2 chunks')
})

test('prompts that were too long to align have words but no columns', () => {
  const unaligned = { ...answer, edits: [null, null] }
  assert.deepEqual(columnsOf(unaligned, 0), { columns: [], left: 0 })
  assert.equal(summary(counts(unaligned, 0)), '')
  assert.deepEqual(choicesOf(unaligned, { edit: 1 }).map(({ name }) => name), ['a', 'dog'])
})

test('choices are each word once, of the prompts and kinds that a node edits', () => {
  const names = (which) => choicesOf(answer, which).map(({ name }) => name)
  assert.deepEqual(names({}), ['a', 'dog', 'red', 'cat', 'asleep'])
  assert.deepEqual(names({ edit: 1 }), ['a', 'dog'])
  assert.deepEqual(names({ edit: 2, kinds: ['shared'] }), ['a', 'red', 'cat'])
  assert.deepEqual(names({ source: true, edit: 1 }), ['a', 'red', 'cat', 'dog'])
  assert.deepEqual(names({ edit: 9 }), [])
  const [a] = choicesOf(answer)
  assert.deepEqual(a.places, [[1, 0], [2, 0]])
})

test('a word without a name cannot be picked', () => {
  const odd = { prompts: [prompt('a'), prompt('a', ',')], edits: [[shared(0), { kind: 'new', source: [], target: [1] }]] }
  odd.prompts[1].words[1].name = null
  assert.deepEqual(choicesOf(odd).map(({ name }) => name), ['a'])
})
