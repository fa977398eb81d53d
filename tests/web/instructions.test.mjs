import assert from 'node:assert/strict'
import test from 'node:test'

import { instructed } from '../../web/instructions.js'

const CAT = 'a photo of a cat with a hat on the snow'
const edited = (instruction, source = CAT, more = {}) => {
  const told = instructed(instruction, { source, target: '', words: '', ...more })
  return told.error ?? told.edit
}

for (const [instruction, wanted, source] of [
  ['make the cat a dog', 'a photo of a dog with a hat on the snow'],
  ['Make the cat an owl.', 'a photo of an owl with a hat on the snow'],
  ['turn the cat into a dog', 'a photo of a dog with a hat on the snow'],
  ['please change the cat to an old dog!', 'a photo of an old dog with a hat on the snow'],
  ['replace the hat with a crown', 'a photo of a cat with a crown on the snow'],
  ['a dog instead of the cat', 'a photo of a dog with a hat on the snow'],
  ['cat -> dog', 'a photo of a dog with a hat on the snow'],
  ['cat => owl', 'a photo of an owl with a hat on the snow'],
  ['snow → sand', 'a photo of a cat with a hat on the sand'],
  ['make the cat red', 'a photo of a red cat with a hat on the snow'],
  ['make the cat orange', 'a photo of an orange cat with a hat on the snow'],
  ['make it at night', `${CAT} at night`],
  ['add: at night', `${CAT} at night`],
  ['add a tree', `${CAT}, a tree`],
  ['+ smile', '1girl, red hair, smile', '1girl, red hair'],
  ['add: in a forest', '1girl, red hair, in a forest', '1girl, red hair'],
  ['add: at night', 'A cat sits on a wall at night.', 'A cat sits on a wall.'],
  ['remove: hat', 'a photo of a cat on the snow'],
  ['remove the snow', 'a photo of a cat with a hat'],
  ['- hat', 'a photo of a cat on the snow'],
  ['without red hair', '1girl, smile', '1girl, red hair, smile'],
  ['remove smile', '1girl, red hair', '1girl, red hair, smile'],
  ['remove 1girl', 'red hair, smile', '1girl, red hair, smile'],
  ['remove red', 'a cat on a wall', 'a red cat on a wall'],
  ['remove the cat', 'a dog', 'a cat and a dog'],
  ['cat -> dog; add: at night', 'a dog at night', 'a cat'],
  ['Katze -> Hund', 'ein Hund auf dem Dach', 'ein Katze auf dem Dach'],
  // as people of our locales write it, about prompts in English or in their language
  ['把猫换成狗', '一只狗坐在红色的椅子上', '一只猫坐在红色的椅子上'],
  ['请将 cat 改为 dog', 'a photo of a dog with a hat on the snow'],
  ['添加：夜晚', '一只猫，夜晚', '一只猫'],
  ['去掉帽子', '一只猫', '一只猫，帽子'],
  ['고양이를 강아지로 바꿔줘', '눈 위의 강아지', '눈 위의 고양이'],
  ['cat를 dog로 바꿔 주세요', 'a photo of a dog with a hat on the snow'],
  ['추가: at night', `${CAT} at night`],
  ['모자를 제거해줘', '고양이', '고양이, 모자'],
  ['猫を犬に変えて', '雪の上の犬', '雪の上の猫'],
  ['cat を dog にして', 'a photo of a dog with a hat on the snow'],
  ['帽子を削除', '猫', '猫、帽子'],
  ['夜を追加して', '猫，夜', '猫']
]) {
  test(`“${instruction}” of “${source ?? CAT}”`, () => assert.equal(edited(instruction, source), wanted))
}

test('more and less of a word are faders', () => {
  const told = instructed('more snow; less the hat', { source: CAT, target: '', words: 'Snow: 0.1\ncat: 2' })
  assert.deepEqual(told, { target: CAT, edit: CAT, words: 'cat: 2\nsnow: 2\nhat: 0.5' })
  assert.equal(instructed('もっと雪', { source: '雪の上の猫', target: '', words: '' }).words, '雪: 2')
  assert.equal(instructed('눈을 더 많이', { source: '눈 위의 고양이', target: '', words: '' }).words, '눈: 2')
})

test('what has been changed is changed further, and the last of several edits', () => {
  const target = 'a photo of a dog with a hat on the snow'
  assert.equal(edited('dog -> fox', CAT, { target }), 'a photo of a fox with a hat on the snow')
  assert.equal(edited('cat -> fox', CAT, { target }), 'a photo of a fox with a hat on the snow', 'of the source')
  const told = instructed('add: at night', { source: 'a cat', target: 'a dog\n---\na fox', words: '' })
  assert.equal(told.target, 'a dog\n---\na fox at night')
  assert.equal(told.edit, 'a fox at night')
})

test('a word is none of another', () => {
  assert.equal(edited('cat -> dog', 'a catfish and a cat'), 'a catfish and a dog')
  assert.equal(edited('cat -> dog', 'a catfish'), '“cat” is not in the prompt “a catfish”.')
})

test('what cannot be done is said', () => {
  assert.match(edited('frobnicate'), /^“frobnicate” is not understood\. Write “make the cat a dog”/)
  assert.equal(edited('remove: tree'), `“tree” is not in the prompt “${CAT}”.`)
  assert.match(edited('make the dog red'), /^“dog” is not in the prompt/)
  assert.match(edited('make the zebra an old dog'), /^“zebra” is not in the prompt/)
  assert.match(edited('cat -> dog', ' '), /^Write first what the picture shows/)
  assert.equal(edited('remove: cat', 'a cat'), 'Without “cat” nothing is left of the prompt.')
})

test('a fader beside others takes only its own place', () => {
  const faded = (words) => instructed('more snow', { source: CAT, target: '', words }).words
  assert.equal(faded('snow: 0.1, cat: 2'), 'cat: 2\nsnow: 2')
  assert.equal(faded('snowman: 0.5\ncat : 0'), 'snowman: 0.5\ncat : 0\nsnow: 2')
  assert.equal(faded('"a, b: 2"'), 'a\\, b: 2\nsnow: 2')
})
