/** The page runs every .js it is given, so only one may do anything when it is imported, and imports run one way. */

import assert from 'node:assert/strict'
import { readFileSync, readdirSync } from 'node:fs'
import test from 'node:test'

const WEB = new URL('../../web/', import.meta.url)
const MAIN = 'p2p.js'
/** From the bottom up: a file imports only from the rows above its own. */
const LAYERS = [
  ['texts.js', 'names.js', 'edits.js', 'graph.js', 'comparisons.js', 'elements.js', 'notices.js', 'drags.js', 'templates.js'],
  ['columns.js', 'choices.js', 'instructions.js', 'windows.js', 'alignment.js', 'option_names.js'],
  ['bars_view.js', 'pair_view.js', 'hints.js'],
  ['words_view.js', 'windows_view.js', 'maps_view.js', 'compare_view.js', 'edit_view.js', 'instruction_view.js', 'hints_view.js'],
  [MAIN]
]

const files = readdirSync(WEB, { recursive: true }).filter((name) => name.endsWith('.js'))
const source = (file) => readFileSync(new URL(file, WEB), 'utf8')
const imports = (file) => [...source(file).matchAll(/^(?:import|export)\b[^'"]*from\s*['"]([^'"]+)['"]/gm)].map((match) => match[1])

test('every file has its layer', () => {
  assert.deepEqual(files.sort(), LAYERS.flat().sort())
})

test('imports run one way', () => {
  for (const [height, layer] of LAYERS.entries()) {
    const below = LAYERS.slice(0, height).flat().map((name) => `./${name}`)
    for (const file of layer) {
      const ours = imports(file).filter((name) => !(file === MAIN && name.startsWith('../../scripts/')))
      for (const name of ours) assert.ok(below.includes(name), `${file} imports ${name}`)
    }
  }
})

test('no import is written in another way', () => {
  for (const file of files) {
    const mentions = source(file).match(/^import\b|\bimport\s*\(/gm) ?? []
    assert.equal(mentions.length, imports(file).length, file)
  }
})

test('only the main file registers', () => {
  for (const file of files) {
    const registers = /registerExtension|addDOMWidget|setInterval|addEventListener\(['"]execut/.test(source(file))
    assert.equal(registers, file === MAIN, file)
  }
  assert.equal(source(MAIN).match(/registerExtension\(/g).length, 1)
})

test('importing the others does nothing', async () => {
  // Neither document nor window exists here, so touching them would fail.
  const before = Object.getOwnPropertyNames(globalThis).sort()
  const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
  const running = timers()
  for (const file of files.filter((name) => name !== MAIN)) await import(new URL(file, WEB))
  assert.deepEqual(Object.getOwnPropertyNames(globalThis).sort(), before)
  assert.equal(timers(), running)
})
