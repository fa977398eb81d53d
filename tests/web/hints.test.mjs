import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import test from 'node:test'

import { surroundings } from '../../web/graph.js'
import { splitEdits } from '../../web/edits.js'
import { hintsOf, LOOKED_AT } from '../../web/hints.js'

/** As the server answers, words by spaces: each is shared with, or swapped for, the one at its place in the source. */
function answerTo(source, target, { connected = true, ...more } = {}) {
  const read = (text) => ({ words: text.split(/\s+/).filter(Boolean).map((word) => ({ text: word, name: word })) })
  const prompts = [source, ...splitEdits(target)].map(read)
  const edits = prompts.slice(1).map(({ words }) => {
    const count = Math.max(words.length, prompts[0].words.length)
    return Array.from({ length: count }, (_, i) => {
      const [ours, theirs] = [prompts[0].words[i]?.text, words[i]?.text]
      const both = ours === theirs ? 'shared' : 'swapped'
      const kind = ours === undefined ? 'new' : theirs === undefined ? 'removed' : both
      return { kind, source: ours === undefined ? [] : [i], target: theirs === undefined ? [] : [i] }
    })
  })
  return { answer: { tokenizer: { name: 'SD1Tokenizer', connected }, prompts, edits, ...more } }
}

const SOURCE = 'a cat on the grass'
const DOG = 'a dog on the grass'
const TWO = `${DOG}\n---\na cat on the snow`
const VALUES = {
  P2PEdit: { words: '', keep: 'the composition' },
  P2PGrid: { words: '', across: 'strength', down: 'none' },
  P2PReweightToken: { words: 'dog', start: 0, end: 1, edit: 0 },
  P2PLocalBlendMask: { words: '', exclude_words: '', mask_mode: 'replace', edit: 0, mask_from: 'words' },
  P2PRecordAttention: { words: '' }
}
for (const kind of ['P2PAttentionReplace', 'P2PAttentionRefine']) {
  VALUES[kind] = { cross_start: 0, cross_end: 0.8, self_start: 0, self_end: 0.4, word_windows: '', edit: 0 }
}

/** The sentences of a node with these values; `more` is of the pair, and what else is around. */
function said(kind, values = {}, { source = SOURCE, target = DOG, told, pair = {}, ...around } = {}) {
  const own = ['P2PPromptPair', 'P2PPairFromConditioning', 'P2PEdit', 'P2PGrid'].includes(kind)
  const all = { ...VALUES[kind], ...values }
  const usual = { kind: own ? kind : 'P2PPromptPair', source, target, words: own ? all.words ?? '' : '', faded: false }
  return hintsOf(kind, all, told ?? answerTo(source, target), {
    runs: true,
    mask: false,
    pair: pair && { ...usual, ...pair },
    unused: false,
    inverted: [],
    ...around
  })
}

function silent(...node) {
  assert.deepEqual(said(...node), [], JSON.stringify(node))
}

const ATTENTION = ['P2PAttentionReplace', 'P2PAttentionRefine']
const UNKNOWN = [
  {},
  { pending: true },
  { ...answerTo(SOURCE, DOG), pending: true },
  { hint: 'Connect a pair.' },
  { error: 'No words.' }
]

test('where all is well nothing is said', () => {
  for (const kind of Object.keys(LOOKED_AT)) silent(kind)
  silent('P2PCompare')
})

test('every node of which anything is said says which widgets it looks at', () => {
  for (const [kind, values] of Object.entries(VALUES)) assert.deepEqual(Object.keys(values), LOOKED_AT[kind])
})

// ---------------------------------------------------------------------------------------------------------- words

test('a word that is not there, and the words that are', () => {
  const wanted = ['“snow” is not in edit 1. Its words: a, dog, on, the, grass.']
  assert.deepEqual(said('P2PReweightToken', { words: 'snow' }), wanted)
  for (const kind of ATTENTION) assert.deepEqual(said(kind, { word_windows: 'snow: 0.4\ngrass: 0.2-0.5' }), wanted)
  assert.deepEqual(said('P2PEdit', { words: 'snow: 0.5' }), wanted)
  const both = ['“snow” is in none of the prompts. Their words: a, cat, on, the, grass, dog.']
  assert.deepEqual(said('P2PLocalBlendMask', { words: 'dog, snow' }), both)
  assert.deepEqual(said('P2PLocalBlendMask', { exclude_words: 'snow' }), both)
  assert.deepEqual(said('P2PRecordAttention', { words: 'snow' }), both)
  assert.deepEqual(said('P2PRecordAttention', { words: 'snow' }, { target: '' }), [
    '“snow” is not in the source. Its words: a, cat, on, the, grass.'
  ])
})

test('several at once, of several edits, and a long prompt', () => {
  assert.deepEqual(said('P2PReweightToken', { words: 'snow, sun\nrain, snow' }), [
    '“snow”, “sun” and “rain” are not in edit 1. Its words: a, dog, on, the, grass.'
  ])
  assert.deepEqual(said('P2PReweightToken', { words: 'sun' }, { target: TWO }), [
    '“sun” is in no edited prompt. Their words: a, dog, on, the, grass, cat, snow.'
  ])
  const target = Array.from({ length: 15 }, (_, i) => `w${i}`).join(' ') + ' , !'
  const [sentence] = said('P2PReweightToken', { words: 'x'.repeat(60) }, { target })
  assert.match(sentence, /^“x{40}…” is not in edit 1\. Its words: w0, .* w11 and 3 more\.$/)
})

test('only the edit that is meant counts, and for the source only the nodes that look at it', () => {
  silent('P2PReweightToken', { words: 'snow' }, { target: TWO })
  silent('P2PReweightToken', { words: 'snow', edit: 2 }, { target: TWO })
  assert.match(said('P2PReweightToken', { words: 'snow', edit: 1 }, { target: TWO })[0], /^“snow” is not in edit 1\./)
  assert.match(said('P2PReweightToken', { words: 'cat' })[0], /^“cat” is not in edit 1\./)
  silent('P2PLocalBlendMask', { words: 'cat' })
  silent('P2PRecordAttention', { words: 'cat, dog' })
})

test('numbers, factors, phrases, weights and commas belong to a name', () => {
  const there = ['dog#1', 'DOG', 'dog: 0.5', 'dog#1: -2', 'on the', '(dog:1.2)', '((dog))', 'embedding:thing']
  for (const words of there) silent('P2PReweightToken', { words })
  assert.match(said('P2PReweightToken', { words: 'dog#2: 3' })[0], /^“dog#2” is not in edit 1, or not that often\./)
  assert.match(said('P2PReweightToken', { words: 'do' })[0], /^“do” is not/)
  assert.match(said('P2PLocalBlendMask', { words: 'dog: 0.5' })[0], /^“dog: 0.5” is in none/) // it takes no factors
  silent('P2PReweightToken', { words: '16:9' }, { target: 'a dog 16:9' })
})

test('what only the text encoder can tell is not called missing', () => {
  for (const [prompt, name] of [
    ['고양이가 의자에', '고양이'],
    ['一只猫坐在红色的椅子上', '红色'],
    ['a cafe\u0301', 'caf\u00e9'],
    ['a dog\u2019s bone', 'dog\u2019s'],
    ['a \ufffd', '🐱']
  ]) {
    silent('P2PReweightToken', { words: name }, { target: prompt })
  }
  assert.match(said('P2PReweightToken', { words: '猫' })[0], /^“猫” is not in edit 1/)
})

test('empty boxes: every word, those that differ, or none to re-weight', () => {
  const none = ['No word to re-weight. Write words of the edited prompt.']
  assert.deepEqual(said('P2PReweightToken', { words: ' , ' }), none)
  silent('P2PReweightToken', { words: '' }, { told: { hint: 'Connect a pair.' }, pair: null }) // it is not begun
  for (const kind of ['P2PRecordAttention', 'P2PLocalBlendMask', ...ATTENTION]) silent(kind)
})

test('nothing is said of words that are not known', () => {
  for (const told of UNKNOWN) {
    silent('P2PReweightToken', { words: 'snow', edit: 9 }, { told })
    silent('P2PLocalBlendMask', { words: 'snow', edit: 9 }, { told })
    silent('P2PEdit', { words: 'snow: 2' }, { told })
    for (const kind of ATTENTION) silent(kind, { word_windows: 'snow: 0.5' }, { told, target: SOURCE })
  }
})

test('nothing is said of what a link gives', () => {
  const nothing = (kind) => Object.fromEntries(LOOKED_AT[kind].map((name) => [name, undefined]))
  for (const kind of Object.keys(VALUES)) silent(kind, nothing(kind))
  silent('P2PReweightToken', { words: 'snow', edit: undefined })
})

test('a node that is muted or bypassed says nothing', () => {
  silent('P2PReweightToken', { words: 'snow', start: 1, end: 0 }, { runs: false })
})

// ------------------------------------------------------------------------------------------------ numbers and windows

test('an edit that the pair does not have', () => {
  for (const kind of [...ATTENTION, 'P2PReweightToken', 'P2PLocalBlendMask']) {
    assert.deepEqual(said(kind, { edit: 9 }), [
      'No edit 9: the pair has 1 edited prompt. Add a prompt after a line ‘---’ in P2P Prompt Pair, or lower the ' +
        'number.'
    ])
  }
  silent('P2PAttentionReplace', { edit: 2 }, { target: TWO })
  assert.match(said('P2PAttentionReplace', { edit: 3 }, { target: TWO })[0], /^No edit 3: the pair has 2 edited /)
  assert.match(said('P2PAttentionReplace', {}, { target: '' })[0], /^No edited prompt: the pair is the source alone\./)
  silent('P2PRecordAttention', {}, { target: '' }) // its maps are those of a plain prompt
})

test('behind P2P Edit an empty target is the source, if words are faded', () => {
  const pair = { kind: 'P2PEdit', words: 'cat: 2' }
  silent('P2PAttentionReplace', {}, { target: '', pair })
  const [second] = said('P2PAttentionReplace', { edit: 2 }, { target: '', pair })
  assert.match(second, /^No edit 2: the pair has 1 edited prompt\. .* in P2P Edit,/)
  assert.match(said('P2PReweightToken', { words: 'dog' }, { target: '', pair })[0], /^“dog” is not in edit 1/)
  for (const words of ['', null]) {
    silent('P2PReweightToken', { words: 'dog' }, { target: '', pair: { kind: 'P2PEdit', words } })
  }
})

test('a window whose start is behind its end, whatever is known of the words', () => {
  const behind = 'Wanted 0 <= start <= end <= 1, fractions of the steps; 0 to 0 is never.'
  for (const told of [undefined, ...UNKNOWN]) {
    for (const kind of ATTENTION) {
      assert.deepEqual(said(kind, { cross_start: 0.9, self_start: 0.41 }, { told }), [
        `cross_start 0.9 is behind cross_end 0.8. ${behind}`,
        `self_start 0.41 is behind self_end 0.4. ${behind}`
      ])
      silent(kind, { cross_start: 0.8, self_end: 0 }, { told }) // an empty window is never
    }
    assert.deepEqual(said('P2PReweightToken', { start: 0.5, end: 0.30000000000000004 }, { told }), [
      `start 0.5 is behind end 0.3. ${behind}`
    ])
  }
})

test('a window for a word whose map is never taken over', () => {
  assert.deepEqual(said('P2PAttentionRefine', { word_windows: 'dog: 0.4' }), [
    'No effect: the window for “dog”, which is swapped. P2P Attention Refine takes over the source’s map for shared ' +
      'words. Remove that line, or use P2P Attention Replace.'
  ])
  const target = `${DOG} today`
  assert.deepEqual(said('P2PAttentionReplace', { word_windows: 'today: 0.4' }, { target }), [
    'No effect: the window for “today”, which is new. P2P Attention Replace takes over the source’s map for shared ' +
      'and swapped words. Remove that line.'
  ])
  silent('P2PAttentionReplace', { word_windows: 'dog: 0.4\ngrass: 0.1' }, { target })
  const first = answerTo(SOURCE, target, { connected: false }) // which words are new depends on the text encoder
  silent('P2PAttentionReplace', { word_windows: 'today: 0.4' }, { target, told: first })
  for (const unsure of [{ refused: 'A line.' }, { edits: [null] }]) {
    const told = answerTo(SOURCE, target, unsure)
    silent('P2PAttentionRefine', { word_windows: 'dog: 0.4' }, { target, told })
  }
  silent('P2PAttentionRefine', { word_windows: 'dog: 0.8-0.2\nnothing' }) // its own view names such lines
})

// ----------------------------------------------------------------------------------------------------- the local blend

test('a mask, the words, or both', () => {
  const both = [
    'Words and a mask that replaces theirs. Clear words and exclude_words, or set mask_mode to intersect or union.'
  ]
  const kind = 'P2PLocalBlendMask'
  for (const told of [undefined, ...UNKNOWN]) {
    assert.deepEqual(said(kind, { words: 'dog' }, { mask: true, told }), both)
    assert.deepEqual(said(kind, { exclude_words: 'grass' }, { mask: true, told }), both)
    assert.match(said(kind, { mask_mode: 'union' }, { told })[0], /^No mask for mask_mode union\. Connect one to mask,/)
  }
  silent(kind, {}, { mask: true, target: SOURCE }) // the mask alone counts
  assert.match(said(kind, { words: 'snow', mask_mode: 'union' }, { mask: true })[0], /^“snow” is in none/)
  silent(kind, { words: 'snow' }, { mask: null }) // whether there is a mask is not known
  assert.match(said(kind, { edit: 4 }, { mask: true })[0], /^No edit 4/)
})

test('an edit that has none of the words, or differs in none', () => {
  const kind = 'P2PLocalBlendMask'
  silent(kind, { words: 'snow, dog' }, { target: TWO })
  assert.deepEqual(said(kind, { words: 'snow' }, { target: TWO }), [
    '“snow” is not in the source or in edit 1. Its words: a, dog, on, the, grass. Name one of them, or set edit to ' +
      'the edit that has them.'
  ])
  silent(kind, { words: 'snow', edit: 2 }, { target: TWO })
  silent(kind, { words: 'cat' }, { target: TWO }) // it is in the source
  const same = 'Nothing differs: edit 1 has the source’s own words. Name the words whose place may change.'
  for (const from of ['words', 'words and change', 'words and change, or everywhere']) {
    assert.deepEqual(said(kind, { mask_from: from }, { target: SOURCE }), [same])
  }
  silent(kind, { mask_from: undefined }, { target: SOURCE })
  const oneOfTwo = `${SOURCE}\n---\na dog on the grass` // the whole picture of the first may change
  silent(kind, { mask_from: 'words and change, or everywhere' }, { target: oneOfTwo })
  assert.deepEqual(said(kind, { mask_from: 'words and change' }, { target: oneOfTwo }), [same])
  silent(kind, { words: 'cat' }, { target: SOURCE })
  const weighted = '(a) cat on the grass'
  for (const connected of [true, false]) {
    const told = answerTo(SOURCE, SOURCE, { connected })
    const wanted = connected ? [same] : [] // another text encoder may read a weight as words
    assert.deepEqual(said(kind, {}, { target: weighted, told }), wanted)
  }
  silent(kind, {}, { target: SOURCE, told: answerTo(SOURCE, SOURCE, { edits: [null] }) })
})

test('a whole edit by the place of its words wants a word that changes', () => {
  const values = { keep: 'everything but the words' }
  silent('P2PEdit', values)
  silent('P2PEdit', { ...values, words: 'cat: 0.5' }, { target: SOURCE })
  const moved = 'on the grass a cat' // the server knows that a moved word is itself
  const shared = { answer: answerTo(SOURCE, moved).answer }
  shared.answer.edits = [shared.answer.edits[0].map((span) => ({ ...span, kind: 'shared' }))]
  const wanted = ['Nothing differs: edit 1 has the source’s own words. Exchange, add or remove a word, or fade one, as in ' +
    '‘snow: 0.5’.']
  assert.deepEqual(said('P2PEdit', values, { target: moved, told: shared }), wanted)
  assert.deepEqual(said('P2PEdit', values, { target: SOURCE }), wanted)
  silent('P2PEdit', { keep: 'the composition' }, { target: moved, told: shared })
  silent('P2PEdit', { keep: undefined }, { target: moved, told: shared }) // a link gives it
})

// -------------------------------------------------------------------------------------------------------- the prompts

test('an edit with the text of the source, where nothing fades it', () => {
  const wanted =
    'Edit 1 has the same text as the source, so there is nothing to edit. Change its prompt in P2P Prompt Pair, or ' +
    'fade one of its words with P2P Reweight Token.'
  for (const kind of ATTENTION) {
    assert.deepEqual(said(kind, {}, { target: SOURCE }), [wanted])
    silent(kind, {}, { target: SOURCE, pair: { faded: true } })
    silent(kind, {}, { target: SOURCE, pair: { kind: 'P2PPairFromConditioning' } }) // encodings may differ
    silent(kind, {}, { target: SOURCE, pair: { kind: 'P2PEdit', words: 'cat: 2' } })
    silent(kind, {}, { target: `(${SOURCE}:1.2)`, told: answerTo(SOURCE, SOURCE) }) // weights differ
    silent(kind, { edit: 1 }, { target: `${DOG}\n---\n${SOURCE}` })
    assert.match(said(kind, { edit: 2 }, { target: `${DOG}\n---\n${SOURCE}` })[0], /^Edit 2 has the same text/)
    const refused = said(kind, { cross_end: 0, cross_start: 1 }, { target: SOURCE })
    assert.equal(refused.length, 1) // the sampler, which would say the other, is not reached
    assert.match(refused[0], /^cross_start 1/)
  }
  for (const kind of ['P2PReweightToken', 'P2PRecordAttention', 'P2PPromptPair']) {
    silent(kind, { words: kind === 'P2PPromptPair' ? undefined : 'cat' }, { target: SOURCE })
  }
})

test('P2P Edit and P2P Grid: nothing to change, and faders', () => {
  for (const kind of ['P2PEdit', 'P2PGrid']) {
    assert.match(said(kind, {}, { target: ' ' })[0], /^Nothing to change: no target and no words to fade\./)
    silent(kind, {}, { target: '', source: '', told: { hint: 'Write it.' } }) // it is not begun
    silent(kind, { words: 'cat: 2' }, { target: '' })
    assert.match(said(kind, { words: 'dog: 2' }, { target: '' })[0], /^“dog” is not in edit 1/)
    assert.deepEqual(said(kind, { words: 'dog' }), ['No factor for “dog”. Write one after it, as in ‘snow: 0.5’.'])
    assert.match(said(kind, {}, { target: SOURCE })[0], /^Edit 1 has the same text .* words, as in ‘snow: 0.5’\.$/)
    silent(kind, { words: 'cat: 2' }, { target: SOURCE })
    assert.match(said(kind, { words: 'dog: 2' }, { target: `${DOG}\n---\n${SOURCE}` })[0], /^Edit 2 has the same text/)
  }
  for (const axis of [{ across: 'scale' }, { down: 'scale' }, { across: undefined }]) {
    silent('P2PGrid', { words: 'dog', ...axis })
  }
  const none = ['No word to fade by the axis scale. Write words of the edited prompt.']
  assert.deepEqual(said('P2PGrid', { down: 'scale' }), none)
})

test('a pair: an edit without a word, whatever is known', () => {
  const wanted = ['No word in edit 2. Edits are separated by a line ‘---’, one prompt each.']
  for (const kind of ['P2PPromptPair', 'P2PPairFromConditioning', 'P2PEdit', 'P2PGrid']) {
    for (const told of UNKNOWN) assert.deepEqual(said(kind, {}, { target: `${DOG}\n---\n `, told }), wanted)
    silent(kind, { words: 'dog: 2' }, { target: `${DOG}\n--- not a border` })
    silent(kind, {}, { target: null, source: null, told: { hint: 'From elsewhere.' } })
  }
  silent('P2PPromptPair', {}, { target: `${DOG}\n---\n{|a cat}` }) // chance decides
  silent('P2PPromptPair', {}, { target: `${DOG}\n/*\n---\n---\n*/` }) // a comment
})

test('a pair: no edit uses it, or the photograph goes back by another text', () => {
  for (const kind of ['P2PPromptPair', 'P2PPairFromConditioning']) {
    assert.match(said(kind, {}, { unused: true })[0], /^No edit: the pair’s conditioning goes to a sampler/)
  }
  const kind = 'P2PPromptPair'
  assert.deepEqual(said(kind, {}, { inverted: ['a cow in the rain'] }), [
    'Another source prompt than P2P DDIM Invert’s, which goes back by “a cow in the rain”: the source does not come ' +
      'back by itself, and edits start from other words. Connect the conditioning of P2P Prompt Pair to both.'
  ])
  const alike = [[], [SOURCE], ['A  CAT on the (grass:1.1) // as it is'], [''], ['{a|the} cow']]
  for (const inverted of alike) assert.deepEqual(said(kind, {}, { inverted }), [], String(inverted))
  assert.equal(said(kind, {}, { inverted: [SOURCE, 'a cow'] }).length, 1)
  silent(kind, {}, { inverted: ['a cow'], source: '{a|the} cat' }) // chance decides
})

// ---------------------------------------------------------------------------------------------------------- the graph

const TYPES = { model: 'MODEL', pair: 'P2P_PAIR', mask: 'MASK', clip: 'CLIP' }
const typeOf = (name) => TYPES[name] ?? (/^(positive|negative|.*conditioning.*)$/.test(name) ? 'CONDITIONING' : 'OTHER')

/** A graph as the page keeps it, of nodes as they are queued: {id: {class_type, inputs: {name: value, or a link}}}. */
function graph(prompt, more = {}) {
  const links = []
  const made = { inputNode: { id: '-10' }, getLink: (id) => links[id], nodes: [] }
  made.getNodeById = (id) => made.nodes.find((node) => node.id === id) ?? null
  for (const [id, { class_type: comfyClass, inputs }] of Object.entries(prompt)) {
    const named = Object.entries(inputs)
    const linked = (value) => links.push({ origin_id: value[0], origin_slot: value[1] }) - 1
    const link = (value) => (Array.isArray(value) ? linked(value) : null)
    made.nodes.push({
      id,
      comfyClass,
      graph: made,
      mode: 0,
      outputs: Array.from({ length: 5 }, () => ({ type: 'MODEL' })), // of bypassed nodes
      widgets: named.filter(([, value]) => !Array.isArray(value)).map(([name, value]) => ({ name, value })),
      inputs: named.map(([name, value]) => ({ name, type: typeOf(name), link: link(value) })),
      ...more[id]
    })
  }
  return made
}

const at = (made, id) => surroundings(made.getNodeById(id), made)
const PAIR = { class_type: 'P2PPromptPair', inputs: { source: SOURCE, target: DOG } }
const LOADER = { class_type: 'CheckpointLoaderSimple', inputs: {} }
const sampler = (model, positive) => ({ class_type: 'KSampler', inputs: { model, positive } })
const replace = (model) => ({ class_type: 'P2PAttentionReplace', inputs: { model, pair: ['2', 1], edit: 0 } })

test('what is around a node', () => {
  const made = graph({
    1: LOADER,
    2: PAIR,
    3: replace(['1', 0]),
    4: sampler(['3', 0], ['2', 0]),
    5: { class_type: 'P2PLocalBlendMask', inputs: { model: ['1', 0], pair: ['2', 1], mask: ['1', 2] } }
  })
  const pair = { kind: 'P2PPromptPair', source: SOURCE, target: DOG, words: '', faded: false }
  assert.deepEqual(at(made, '2'), { runs: true, mask: false, pair, unused: false, inverted: [] })
  assert.deepEqual(at(made, '3'), at(made, '2'))
  assert.equal(at(made, '5').mask, true)
  made.getNodeById('1').mode = 2
  assert.equal(at(made, '5').mask, null, 'muted: it is not known what is left')
  assert.equal(at(made, '4').pair, null)
  for (const mode of [2, 4]) {
    made.getNodeById('3').mode = mode
    assert.deepEqual(at(made, '3'), { runs: false })
  }
})

test('a pair that no edit uses', () => {
  const straight = { 1: LOADER, 2: PAIR, 4: sampler(['1', 0], ['2', 0]) }
  assert.equal(at(graph(straight), '2').unused, true)
  const through = { class_type: 'ControlNetApply', inputs: { conditioning: ['2', 0] } }
  assert.equal(at(graph({ ...straight, 4: sampler(['1', 0], ['5', 0]), 5: through }), '2').unused, true)
  const guider = { class_type: 'BasicGuider', inputs: { model: ['1', 0], conditioning: ['2', 0] } }
  assert.equal(at(graph({ 1: LOADER, 2: PAIR, 4: guider }), '2').unused, true)
  const lora = { class_type: 'LoraLoader', inputs: { model: ['3', 0] } }
  const edited = { ...straight, 4: sampler(['5', 0], ['2', 0]), 5: lora, 3: replace(['1', 0]) }
  assert.equal(at(graph(edited), '2').unused, false)
  const invert = { class_type: 'P2PDDIMInvert', inputs: { model: ['1', 0], conditioning: ['2', 0] } }
  assert.equal(at(graph({ ...straight, 4: sampler(['3', 0], ['2', 0]), 3: invert }), '2').unused, false)
  assert.equal(at(graph({ 1: LOADER, 2: PAIR, 3: invert }), '2').unused, false, 'P2P nodes are no samplers')
})

test('a pair of which that is not so, or not known', () => {
  const straight = { 1: LOADER, 2: PAIR, 4: sampler(['1', 0], ['2', 0]) }
  const alone = { ...PAIR, inputs: { source: SOURCE, target: '' } }
  assert.equal(at(graph({ ...straight, 2: alone }), '2').unused, false)
  assert.equal(at(graph({ 2: PAIR, 4: { class_type: 'KSampler', inputs: { positive: ['2', 0] } } }), '2').unused, false)
  assert.equal(at(graph({ 1: LOADER, 2: PAIR, 4: sampler(['1', 0], ['1', 0]) }), '2').unused, false)
  const dangling = { class_type: 'LoraLoader', inputs: { model: ['99', 0] } }
  assert.equal(at(graph({ ...straight, 4: sampler(['5', 0], ['2', 0]), 5: dangling }), '2').unused, false)
  const own = { class_type: 'P2PEdit', inputs: { source: SOURCE, target: DOG, model: ['1', 0] } }
  assert.equal(at(graph({ 1: LOADER, 2: own, 4: sampler(['1', 0], ['2', 1]) }), '2').unused, false)
  for (const mode of [2, 4]) assert.equal(at(graph(straight, { 4: { mode } }), '2').unused, false)
  const bypassed = graph({ ...straight, 3: replace(['1', 0]), 4: sampler(['3', 0], ['2', 0]) }, { 3: { mode: 4 } })
  assert.equal(at(bypassed, '2').unused, true)
})

test('edits and samplers in subgraphs count', () => {
  const inner = graph({ 7: sampler(['-10', 0], ['-10', 1]) })
  const sub = (model) => ({ class_type: 'sub', inputs: { model, positive: ['2', 0] } })
  const prompt = (model) => ({ 1: LOADER, 2: PAIR, 3: replace(['1', 0]), 5: sub(model) })
  assert.equal(at(graph(prompt(['1', 0]), { 5: { subgraph: inner } }), '2').unused, true)
  assert.equal(at(graph(prompt(['3', 0]), { 5: { subgraph: inner } }), '2').unused, false)
  assert.equal(at(graph(prompt(['1', 0]), { 5: { subgraph: inner, mode: 2 } }), '2').unused, false)
})

test('by which text a photograph goes back', () => {
  const text = (words) => ({ class_type: 'CLIPTextEncode', inputs: { text: words } })
  const prompt = (conditioning, more = {}) => ({
    1: LOADER,
    2: PAIR,
    5: text('a cow'),
    6: { class_type: 'P2PDDIMInvert', inputs: { model: ['1', 0], conditioning } },
    3: replace(['6', 0]),
    4: sampler(['3', 0], ['2', 0]),
    ...more
  })
  const inverted = (...of) => at(graph(...of), '2').inverted
  assert.deepEqual(inverted(prompt(['5', 0])), ['a cow'])
  assert.deepEqual(inverted(prompt(['2', 0])), [SOURCE])
  const another = { ...PAIR, inputs: { source: 'a fox', target: '' } }
  assert.deepEqual(inverted(prompt(['9', 0], { 9: another })), ['a fox'])
  assert.deepEqual(inverted(prompt(['8', 0], { 8: { class_type: 'Elsewhere', inputs: {} } })), []) // it is not known
  assert.deepEqual(inverted(prompt(['5', 0], { 5: text(['1', 0]) })), []) // the text comes from elsewhere
  assert.deepEqual(inverted(prompt(['5', 0], { 4: sampler(['1', 0], ['2', 0]) })), []) // another model
  assert.deepEqual(inverted(prompt(['5', 0]), { 6: { mode: 4 } }), [])
  const conditionings = { class_type: 'P2PPairFromConditioning', inputs: { source: SOURCE, target: DOG } }
  assert.deepEqual(inverted(prompt(['5', 0], { 2: conditionings })), []) // its text does not say all
})

test('a pair that P2P Reweight Token fades', () => {
  const fader = { class_type: 'P2PReweightToken', inputs: { model: ['1', 0], pair: ['2', 1], words: 'cat' } }
  const prompt = { 1: LOADER, 2: PAIR, 3: replace(['6', 0]), 6: fader, 9: PAIR }
  assert.equal(at(graph(prompt), '3').pair.faded, true)
  assert.equal(at(graph(prompt), '9').pair.faded, false)
  assert.equal(at(graph(prompt, { 6: { mode: 2 } }), '3').pair.faded, false)
  const dangling = { ...fader, inputs: { pair: ['99', 1] } }
  assert.equal(at(graph({ ...prompt, 6: dangling }), '3').pair.faded, true, 'it may be the same pair')
})

test('nothing is said in the templates', () => {
  const folder = new URL('../../workflows/api/', import.meta.url)
  for (const file of readdirSync(folder).filter((name) => name.endsWith('.json'))) {
    const made = graph(JSON.parse(readFileSync(new URL(file, folder))))
    for (const node of made.nodes.filter(({ comfyClass }) => LOOKED_AT[comfyClass])) {
      const around = surroundings(node, made)
      const value = (name) => node.widgets.find((widget) => widget.name === name)?.value
      const values = Object.fromEntries(LOOKED_AT[node.comfyClass].map((name) => [name, value(name)]))
      const known = around.pair?.source != null && around.pair.target != null
      const told = known ? answerTo(around.pair.source, around.pair.target) : { hint: 'From elsewhere.' }
      assert.deepEqual(hintsOf(node.comfyClass, values, told, around), [], `${file}: ${node.comfyClass}`)
    }
  }
})
