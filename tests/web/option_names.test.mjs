/** What the choices of lists are called in the page's language. */

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import test from 'node:test'

import { hasNames, nameOf } from '../../web/option_names.js'
import { setLanguage } from '../../web/texts.js'

const LANGUAGES = ['ko', 'ja', 'zh']
const table = (language) => JSON.parse(readFileSync(new URL(`../../web/texts/${language}.json`, import.meta.url), 'utf8'))

test('choices are called by their values in English, and by their names elsewhere', () => {
  assert.equal(nameOf('everything but the words'), 'everything but the words')
  setLanguage(table('ko'))
  assert.equal(nameOf('everything but the words'), '단어 밖의 모든 것')
  setLanguage({})
  assert.equal(nameOf('everything but the words'), 'everything but the words')
})

test('what is none of the pack’s choices is as it is', () => {
  setLanguage(table('ko'))
  for (const value of ['euler', '16', 'toString', 'Automatic']) assert.equal(nameOf(value), value)
  assert.equal(nameOf(null), '')
  setLanguage({})
  assert.ok(hasNames(['auto', '8', '16']))
  for (const values of [['euler', 'lms'], [], undefined, () => ['auto']]) assert.ok(!hasNames(values))
})

test('no two choices of a list have one name', () => {
  const lists = [
    ['automatic', 'the composition', 'everything but the words', 'nothing'],
    ['auto', 'maps', 'maps, renormalised', 'queries and keys'],
    ['words', 'words and change', 'words and change, or everywhere'],
    ['replace', 'intersect', 'union'],
    ['auto', 'first third', 'middle third', 'last third', 'all'],
    ['none', 'strength', 'cross_end', 'self_end', 'scale', 'threshold', 'seed']
  ]
  for (const language of LANGUAGES) {
    setLanguage(table(language))
    for (const list of lists) assert.equal(new Set(list.map(nameOf)).size, list.length, `${language}: ${list}`)
  }
  setLanguage({})
})
