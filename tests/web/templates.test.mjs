/** The templates in the languages of the pack, of which nothing is missing and only what is ours is translated; their place. */

import assert from 'node:assert/strict'
import { readFileSync, readdirSync } from 'node:fs'
import test from 'node:test'

import { readablePlace, translateTemplate } from '../../web/templates.js'

const ROOT = new URL('../../', import.meta.url)
const LANGUAGES = readdirSync(new URL('web/texts/', ROOT)).map((name) => name.replace('.json', ''))
const read = (path) => JSON.parse(readFileSync(new URL(path, ROOT), 'utf8'))
const opened = (name) => read(`workflows/${name}.json`)
const templates = readdirSync(new URL('workflows/', ROOT)).filter((name) => name.endsWith('.json'))

const notes = ({ nodes }) => nodes.filter(({ type }) => type === 'MarkdownNote').map((note) => note.widgets_values[0])
const titles = ({ nodes, groups }) => [...nodes, ...(groups ?? [])].map(({ title }) => title).filter(Boolean)
const said = (graph) => [...notes(graph), ...titles(graph)]

const english = new Set(templates.flatMap((name) => said(read(`workflows/${name}`))))
const tables = Object.fromEntries(LANGUAGES.map((language) => [language, read(`web/template_texts/${language}.json`)]))

test('every template has one note, by which it is known', () => {
  for (const name of templates) assert.equal(notes(read(`workflows/${name}`)).length, 1, name)
})

test('no text waits for a translation, and none is left over', () => {
  assert.deepEqual(readdirSync(new URL('web/template_texts/', ROOT)).sort(), LANGUAGES.map((each) => `${each}.json`).sort())
  for (const [language, table] of Object.entries(tables)) {
    assert.deepEqual([...english].filter((text) => !table[text]), [], `${language}: not translated`)
    assert.deepEqual(Object.keys(table).filter((text) => !english.has(text)), [], `${language}: nobody says that`)
  }
})

test('translations keep lines, headings, what is typed and what is named', () => {
  const kept = (text) => (text.match(/P2P( [A-Z][\w-]+)+|"[^"]*"|\d+(\.\d+)?|^#+ /gm) ?? []).sort()
  for (const [language, table] of Object.entries(tables)) {
    for (const [text, translation] of Object.entries(table)) {
      assert.equal(translation.split('\n').length, text.split('\n').length, `${language}: ${text}`)
      assert.deepEqual(kept(translation), kept(text), `${language}: ${text}`)
      assert.doesNotMatch(translation, /`/, 'code spans cannot be read on newer pages')
    }
  }
})

test('a template of ours is translated, and nothing but what it says', () => {
  const [before, graph] = [opened('word_swap'), opened('word_swap')]
  translateTemplate(graph, tables.ko)
  assert.deepEqual(said(graph), said(before).map((text) => tables.ko[text]))
  const bare = (each) => JSON.stringify({ ...each, nodes: each.nodes.map(silent), groups: each.groups?.map(silent) })
  const silent = (each) => ({ ...each, title: '', widgets_values: each.type === 'MarkdownNote' ? [] : each.widgets_values })
  assert.equal(bare(graph), bare(before))
})

test('what a person wrote stays, and so do other graphs and a language without texts', () => {
  const other = { nodes: [{ type: 'KSampler' }], groups: [{ title: 'Edit' }] }
  const mine = { nodes: [{ type: 'MarkdownNote', widgets_values: ['My note.'] }], groups: [{ title: 'Edit' }] }
  const changed = opened('word_swap')
  changed.groups = [{ title: 'My group' }]
  translateTemplate(changed, tables.ko)
  assert.equal(changed.groups[0].title, 'My group')
  assert.notEqual(tables.ko.Edit, 'Edit')
  for (const [graph, table] of [[other, tables.ko], [mine, tables.ko], [opened('word_swap'), {}], [{}, tables.ko], [undefined, tables.ko]]) {
    const before = JSON.stringify(graph)
    translateTemplate(graph, table)
    assert.equal(JSON.stringify(graph), before)
  }
})

test('a template is readable where a page made all of it fit', () => {
  const place = (scale, x = 0, y = 0) => ({ scale, offset: [x, y] })
  const graph = { extra: { ds: place(0.6, 90, 110) }, nodes: [{ type: 'P2PEdit', pos: [0, 0], size: [300, 200] }] }
  const shown = (opened, before, after) => readablePlace(opened, before, after, [1280, 720])

  assert.deepEqual(shown(graph, place(1), place(0.5, 20, 30)), place(0.6, 90, 110))
  assert.equal(shown(graph, place(1), place(0.61, 20, 30)), null, 'all of it fits and is larger')
  assert.equal(shown(graph, place(1), place(0.6, 90, 110)), null, 'the page took the saved place')
  assert.equal(shown(graph, place(0.5, 20, 30), place(0.5, 20, 30)), null, 'an undo')
  assert.equal(shown({ ...graph, extra: {} }, place(1), place(0.5)), null, 'no place was saved')
  const others = { ...graph, nodes: [{ type: 'KSampler', pos: [0, 0], size: [300, 200] }] }
  assert.equal(shown(others, place(1), place(0.5)), null, 'not ours')
  const elsewhere = { ...graph, extra: { ds: place(0.6, 9000, 110) } }
  assert.equal(shown(elsewhere, place(1), place(0.5)), null, 'nothing was in sight')
})
