/** What the page says, in every language of the pack; by which words, locales/GLOSSARY.md says. */

import assert from 'node:assert/strict'
import { readFileSync, readdirSync } from 'node:fs'
import test from 'node:test'

import { instructed } from '../../web/instructions.js'
import { setLanguage, t } from '../../web/texts.js'

const WEB = new URL('../../web/', import.meta.url)
const TEXTS = new URL('texts/', WEB)
const LETTERS = { ko: /\p{sc=Hangul}/u, ja: /[\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Han}]/u, zh: /\p{sc=Han}/u }
const FOREIGN = {
  ko: /[\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Han}]/u,
  ja: /\p{sc=Hangul}/u,
  zh: /[\p{sc=Hangul}\p{sc=Hiragana}\p{sc=Katakana}]/u
}

const SAID = /(?<![\w.])t\(\s*('[^']*'(?:\s*\+\s*'[^']*')*)/g // t('a text') or t('one of ' + 'two lines')
const STRING = /'[^'\n]*'|`[^`]*`/g
const SENTENCE = /[A-Za-z]{2}[,:;.]? [A-Za-z]{2}/
const NO_SENTENCE = /p2p-|^.(P2P [A-Z]|\.|every prompt.$)/ // classes, names of nodes, selectors, a value that a view is given
// A word that an element says: in an attribute, or behind all of them.
const WORD = /(?:title|placeholder|hint|error|alt|'aria-label'): ('[^']+'|`[^`]+`)|\}, ('[^']+'|`[^`]+`)\)/g
const NO_WORD = ["'Enter'"] // the name of a key

const files = readdirSync(WEB).filter((name) => name.endsWith('.js'))
const code = Object.fromEntries(files.map((file) => [file, withoutComments(readFileSync(new URL(file, WEB), 'utf8'))]))
const english = new Set(files.flatMap((file) => [...code[file].matchAll(SAID)].map(([, literal]) => joined(literal))))
const read = (language) => JSON.parse(readFileSync(new URL(`${language}.json`, TEXTS), 'utf8'))
const tables = Object.fromEntries(Object.keys(LETTERS).map((language) => [language, read(language)]))

function withoutComments(source) {
  return source.replace(/\/\*\*[\s\S]*?\*\//g, '').replace(/(^|\s)\/\/ .*$/gm, '$1')
}

function joined(literal) {
  return [...literal.matchAll(/'([^']*)'/g)].map(([, part]) => part).join('')
}

function placeholders(text) {
  return (text.match(/\{[^}]*\}/g) ?? []).sort()
}

function fixed(template) {
  return template.replace(/\$\{[^}]*\}/g, '')
}

test('a text without a translation is said in English', () => {
  assert.equal(t('edit {number}', { number: 2 }), 'edit 2')
  setLanguage({ 'edit {number}': '{number}. b' })
  assert.equal(t('edit {number}', { number: 2 }), '2. b')
  assert.equal(t('seed {number}', { number: 2 }), 'seed 2')
  setLanguage({})
  assert.equal(t('edit {number}', { number: 2 }), 'edit 2')
})

test('only what is given is filled in, and once', () => {
  assert.equal(t('{a|b} {word} {number}', { word: '{number}' }), '{a|b} {number} {number}')
  assert.equal(t('{number}', { number: 0 }), '0')
})

test('the languages are those of the nodes', () => {
  const ofNodes = readdirSync(new URL('../../locales/', import.meta.url)).filter((name) => name.endsWith('.json'))
  assert.deepEqual(readdirSync(TEXTS).sort(), ofNodes.sort())
  const [, loaded] = /LANGUAGES = \[(.*?)\]/.exec(code['p2p.js'])
  assert.deepEqual(loaded.match(/\w+/g).map((language) => `${language}.json`).sort(), ofNodes)
  assert.deepEqual(Object.keys(LETTERS).map((language) => `${language}.json`).sort(), ofNodes)
})

test('every text is given as it stands, so that it can be found', () => {
  for (const file of files.filter((name) => name !== 'texts.js')) {
    assert.deepEqual(code[file].replace(SAID, '').match(/(?<![\w.])t\(.*/g), null, file)
  }
})

test('no text waits for a translation, and none is left over', () => {
  for (const [language, table] of Object.entries(tables)) {
    const translated = new Set(Object.keys(table))
    assert.deepEqual([...english].filter((text) => !translated.has(text)), [], `${language}.json has no translation`)
    assert.deepEqual([...translated].filter((text) => !english.has(text)), [], `${language}.json: nobody says that`)
  }
})

test('translations are in their language, and nothing is lost on the way', () => {
  for (const [language, table] of Object.entries(tables)) {
    for (const [text, translation] of Object.entries(table)) {
      assert.match(translation, LETTERS[language], text)
      assert.doesNotMatch(translation, FOREIGN[language], text)
      assert.deepEqual(placeholders(translation), placeholders(text), `${language}: ${text}`)
      assert.equal(translation, translation.trim().replace(/ {2,}/g, ' '), text)
      assert.doesNotMatch(text + translation, /["']/, 'quotes are “ ” and ‘ ’')
      for (const typed of text.match(/‘[^{’]*’|\b[a-z]+_[a-z]+\b|P2P( [A-Z]\w+)+/g) ?? []) {
        assert.ok(translation.includes(typed), `${language}: ${typed} in ${translation}`)
      }
    }
  }
})

test('nothing is shown that is not translated', () => {
  for (const file of files) {
    const others = code[file].replace(SAID, '')
    const strings = others.match(STRING) ?? []
    const sentences = strings.filter((each) => SENTENCE.test(fixed(each)) && !NO_SENTENCE.test(each))
    const said = [...others.matchAll(WORD)].map(([, given, inside]) => given ?? inside)
    const words = said.filter((each) => /[A-Za-z]{2}/.test(fixed(each)) && !NO_WORD.includes(each))
    assert.deepEqual([...sentences, ...words], [], file)
  }
})

test('a sentence that is given as an example is understood', () => {
  const prompts = { source: 'a cat with a hat in the snow', target: '', words: '' }
  for (const table of [{}, ...Object.values(tables)]) {
    setLanguage(table)
    const { error } = instructed('?', prompts)
    const examples = [...error.matchAll(/“([^”?]+)”/g)].map(([, example]) => example)
    assert.equal(examples.length, 5, error)
    const offered = t('Say it: make the cat a dog').split(/: |：/)[1]
    assert.equal(offered, examples[0])
    for (const example of examples) {
      const { edit, words } = instructed(example, prompts)
      assert.notDeepEqual({ edit, words }, { edit: prompts.source, words: '' }, example)
    }
    assert.equal(instructed(examples[0], prompts).edit, 'a dog with a hat in the snow')
  }
  setLanguage({})
})
