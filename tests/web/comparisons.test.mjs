import assert from 'node:assert/strict'
import test from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import { Comparisons } from '../../web/comparisons.js'

function made(answer = async (texts) => texts.target) {
  const asked = []
  let changes = 0
  const ask = (texts) => asked.push(texts.target) && answer(texts)
  return { comparisons: new Comparisons(ask, () => changes++, 10), asked, changes: () => changes }
}
const pair = (target, node = '1') => ({ node, source: 'a cat', target })

test('it asks once, after a pause of typing, and remembers', async () => {
  const { comparisons, asked, changes } = made()
  for (const target of ['a', 'a d', 'a dog', 'a dog']) assert.deepEqual(comparisons.get(pair(target)), { pending: true })
  assert.deepEqual(asked, [])
  await sleep(40)
  assert.deepEqual(asked, ['a dog'])
  assert.equal(changes(), 1)
  assert.deepEqual(comparisons.get(pair('a dog')), { answer: 'a dog' })
  await sleep(30)
  assert.equal(asked.length, 1)
})

test('until the next answer comes it shows the last one', async () => {
  const { comparisons } = made()
  comparisons.get(pair('a dog'))
  await sleep(30)
  comparisons.get(pair('a dog'))
  assert.deepEqual(comparisons.get(pair('a fox')), { answer: 'a dog', pending: true })
})

test('nodes do not disturb each other', async () => {
  const { comparisons, asked } = made()
  comparisons.get(pair('a dog', '1'))
  comparisons.get(pair('a fox', '2'))
  await sleep(30)
  assert.deepEqual(asked.sort(), ['a dog', 'a fox'])
})

test('a refusal is remembered as what was said', async () => {
  const { comparisons, asked } = made(async () => {
    throw new Error('Wanted fewer')
  })
  comparisons.get(pair('a dog'))
  await sleep(30)
  assert.deepEqual(comparisons.get(pair('a dog')), { error: 'Wanted fewer' })
  await sleep(30)
  assert.equal(asked.length, 1)
})

test('after forgetting it asks again', async () => {
  const { comparisons, asked } = made()
  comparisons.get(pair('a dog'))
  await sleep(30)
  comparisons.forget()
  comparisons.get(pair('a dog'))
  await sleep(30)
  assert.equal(asked.length, 2)
})

test('it does not remember without end', async () => {
  const { comparisons } = made()
  for (let i = 0; i < 120; i++) comparisons.get(pair(`${i}`, `${i}`))
  await sleep(60)
  assert.equal(comparisons.get(pair('0', '0')).pending, true)
  assert.deepEqual(comparisons.get(pair('119', '119')), { answer: '119' })
})

test('nodes of another graph are not told what those of the last one were', async () => {
  const { comparisons, asked } = made()
  comparisons.get(pair('a dog'))
  await sleep(30)
  comparisons.get(pair('a dog'))
  comparisons.get(pair('a wolf'))
  comparisons.leave()
  assert.deepEqual(comparisons.get(pair('a fox')), { pending: true })
  await sleep(30)
  assert.deepEqual(asked, ['a dog', 'a fox'], 'what waited is not asked any more')
  assert.deepEqual(comparisons.get(pair('a dog')), { answer: 'a dog' }, 'what is known is known')
})
