/**
 * What a node will refuse, or do in vain, as far as it is known before Run. Each sentence says what the node would say
 * (p2p_attention/), the sense in its first words; where the page cannot be sure, nothing is said. No DOM here.
 */

import { firstChoices, hasChoices } from './choices.js'
import { meant, plain, splitNames } from './names.js'
import { readWindows } from './windows.js'

const SHOWN_WORDS = 12 // of a long prompt; all are drawn above
const SHOWN_LETTERS = 40 // of a name
const FACTOR = /\s*:\s*[+-]?(?:\d+\.?\d*|\.\d+)$/
const EDIT_BORDER = /(?:^|(?<=[\r\n]))[ \t]*---[ \t]*(?=[\r\n]|$)/
const FROM_CONDITIONING = 'P2PPairFromConditioning'
const PAIR_NAMES = {
  P2PPromptPair: 'P2P Prompt Pair',
  [FROM_CONDITIONING]: 'P2P Pair From Conditioning',
  P2PEdit: 'P2P Edit',
  P2PGrid: 'P2P Grid'
}
const WITH_FADERS = ['P2PEdit', 'P2PGrid'] // an empty target is there the source, with words faded
const WINDOWS = ['cross_start', 'cross_end', 'self_start', 'self_end', 'word_windows', 'edit']

/** Node id -> the widgets that are looked at. */
export const LOOKED_AT = {
  P2PPromptPair: [],
  P2PPairFromConditioning: [],
  P2PEdit: ['words'],
  P2PGrid: ['words', 'across', 'down'],
  P2PAttentionReplace: WINDOWS,
  P2PAttentionRefine: WINDOWS,
  P2PReweightToken: ['words', 'start', 'end', 'edit'],
  P2PLocalBlendMask: ['words', 'exclude_words', 'mask_mode', 'edit'],
  P2PRecordAttention: ['words']
}

/** Node id -> [what is refused, what is in vain]; the latter is not reached, nor said, where there is the former. */
const SAYS = {
  P2PPromptPair: [(it) => [emptyEdit(it)], (it) => [noEdit(it), invertedByAnother(it)]],
  P2PPairFromConditioning: [(it) => [emptyEdit(it)], (it) => [noEdit(it)]],
  P2PEdit: [
    (it) => [emptyEdit(it), nothingToChange(it), ...wrongFaders(it, false)],
    (it) => [nothingToEdit(it, it.edits), invertedByAnother(it)]
  ],
  P2PGrid: [
    (it) => [emptyEdit(it), nothingToChange(it), ...wrongFaders(it, hasScaleAxis(it))],
    (it) => [nothingToEdit(it, it.edits)]
  ],
  P2PAttentionReplace: [
    (it) => wrongWindows(it, 'P2P Attention Replace', ['shared', 'swapped']),
    (it) => [nothingToEdit(it, chosen(it))]
  ],
  P2PAttentionRefine: [
    (it) => wrongWindows(it, 'P2P Attention Refine', ['shared']),
    (it) => [nothingToEdit(it, chosen(it))]
  ],
  P2PReweightToken: [wrongReweight, () => []],
  P2PLocalBlendMask: [wrongBlend, () => []],
  P2PRecordAttention: [(it) => [unknown(split(it.values.words), it.edits && [it.source, ...it.edits])], () => []]
}

/**
 * @param {string} kind the node's id.
 * @param {object} values of the widgets that are LOOKED_AT; undefined for those that a link gives.
 * @param told what host.comparison() gives: {answer}, {pending}, ...
 * @param around what surroundings() gives.
 * @returns {string[]} sentences, the worst first.
 */
export function hintsOf(kind, values, told, around) {
  if (!around.runs || !SAYS[kind]) return []
  const answer = (!told.pending && !told.hint && !told.error && told.answer) || null
  const edits = answer && editsOf(answer, around.pair)
  const source = answer && { label: 'the source', words: answer.prompts[0].words }
  const it = { kind, values, around, edits, source, connected: answer?.tokenizer.connected }
  const [refused, inVain] = SAYS[kind].map((say) => say(it).filter(Boolean))
  return refused.length ? refused : inVain
}

/** The edited prompts in a text box, as the nodes part them. */
export function splitEdits(text) {
  return text.trim() ? text.split(EDIT_BORDER).map((part) => part.trim()) : []
}

/**
 * {label, words, text, kinds, differs} of each edited prompt; the last two are null where the alignment is not known.
 * All is null where not even that is known.
 */
function editsOf(answer, pair) {
  const [source, ...edited] = answer.prompts
  if (!edited.length && WITH_FADERS.includes(pair?.kind)) {
    if (!pair.words?.trim()) return null
    const kinds = source.words.map(() => 'shared')
    return [{ label: 'edit 1', words: source.words, text: pair.source, kinds, differs: false }]
  }
  const texts = splitEdits(pair?.target ?? '')
  return edited.map(({ words }, i) => {
    const spans = answer.refused ? null : answer.edits[i]
    const kinds = spans && words.map((_, word) => spans.find(({ target }) => target.includes(word))?.kind)
    const differs = spans && spans.some((span) => span.kind !== 'shared')
    return { label: `edit ${i + 1}`, words, text: texts[i], kinds, differs }
  })
}

/** The edited prompts that the node's `edit` means; null where that is not known. */
function chosen({ values: { edit }, edits }) {
  if (edit === undefined || !edits?.length || edit > edits.length) return null
  return edit > 0 ? [edits[edit - 1]] : edits
}

// -------------------------------------------------------------------------------------------------------- the prompts

function emptyEdit({ around: { pair } }) {
  const text = pair.target ?? ''
  const drawn = pair.kind !== FROM_CONDITIONING // comments are taken out, and what a choice leaves is not known
  const empty = drawn && hasChoices(text) ? -1 : splitEdits(drawn ? firstChoices(text) : text).indexOf('')
  return empty >= 0 && `No word in edit ${empty + 1}. Edits are separated by a line ‘---’, one prompt each.`
}

function nothingToChange({ values: { words }, around: { pair } }) {
  const nothing = pair.source?.trim() && pair.target?.trim() === '' && words?.trim() === ''
  return (
    nothing &&
    'Nothing to change: no target and no words to fade. Write the edited prompt, or lines ‘word: scale’ as in ' +
      '‘snow: 0.5’.'
  )
}

function nothingToEdit({ kind, around: { pair } }, edits) {
  const known = pair && edits && pair.source && pair.words !== null && !pair.faded
  if (!known || pair.kind === FROM_CONDITIONING) return null // encodings of one text may differ
  const faders = splitNames(pair.words)
  const isFaded = ({ words }) => faders.some((name) => mayBeIn(name, words, true))
  const same = edits.find((edit) => edit.text === pair.source && !isFaded(edit))
  if (!same) return null
  const how = WITH_FADERS.includes(kind) ? ', as in ‘snow: 0.5’' : ' with P2P Reweight Token'
  return (
    `${capital(same.label)} has the same text as the source, so there is nothing to edit. Change its prompt in ` +
    `${PAIR_NAMES[pair.kind]}, or fade one of its words${how}.`
  )
}

function noEdit({ around }) {
  return (
    around.unused &&
    'No edit: the pair’s conditioning goes to a sampler whose model no P2P node has touched, so of each latent only ' +
      'one of the prompts is drawn. Put a P2P Attention node, with this pair, between the model and the sampler.'
  )
}

function invertedByAnother({ around: { pair, inverted } }) {
  if (!pair.source) return null
  const isOther = (text) => text.trim() && letters(text) !== letters(pair.source)
  const other = inverted.find((text) => ![text, pair.source].some(hasChoices) && isOther(text))
  return (
    other !== undefined &&
    `Another source prompt than P2P DDIM Invert’s, which goes back by ${quoted(other)}: the source does not come ` +
      `back by itself, and edits start from other words. Connect the conditioning of ${PAIR_NAMES[pair.kind]} to both.`
  )
}

/** A text without what may be the same to the text encoder: case, spaces, comments and weights. */
function letters(text) {
  return plain(unweighted(firstChoices(text)))
}

// ------------------------------------------------------------------------------------------------- numbers and windows

function noSuchEdit({ values: { edit }, edits, around: { pair } }) {
  if (!edits) return null
  const where = PAIR_NAMES[pair?.kind] ?? PAIR_NAMES.P2PPromptPair
  if (!edits.length) return `No edited prompt: the pair is the source alone. Write one in the target of ${where}.`
  const has = `${edits.length} edited prompt${edits.length > 1 ? 's' : ''}`
  return (
    edit > edits.length &&
    `No edit ${edit}: the pair has ${has}. Add a prompt after a line ‘---’ in ${where}, or lower the number.`
  )
}

function reversed({ values }, start, end) {
  const shown = (name) => `${name} ${Number(values[name].toFixed(4))}`
  return (
    values[start] > values[end] &&
    `${shown(start)} is behind ${shown(end)}. Wanted 0 <= start <= end <= 1, fractions of the steps; 0 to 0 is never.`
  )
}

function wrongWindows(it, name, injected) {
  const edits = chosen(it)
  const windows = readWindows(it.values.word_windows ?? '')
  return [
    reversed(it, 'cross_start', 'cross_end'),
    reversed(it, 'self_start', 'self_end'),
    noSuchEdit(it),
    unknown(windows.map((window) => window.name), edits),
    ...(edits ? windows.map((window) => withoutEffect(it, window.name, edits, name, injected)) : [])
  ]
}

/** A window for a word whose map is never taken over. */
function withoutEffect({ connected }, word, edits, name, injected) {
  const kinds = new Set()
  for (const edit of edits) {
    for (const i of places(word, edit.words)) kinds.add(edit.kinds?.[i])
  }
  const sure = connected || !injected.includes('swapped') // it is the text encoder that tells what is swapped
  const known = sure && kinds.size > 0 && !kinds.has(undefined) && isPlain(word)
  if (!known || injected.some((kind) => kinds.has(kind))) return null
  const swapped = kinds.size === 1 && kinds.has('swapped')
  return (
    `No effect: the window for ${quoted(word)}, which is ${listed([...kinds].sort())}. ${name} takes over the ` +
    `source’s map for ${listed(injected)} words. Remove that line${swapped ? ', or use P2P Attention Replace.' : '.'}`
  )
}

// ---------------------------------------------------------------------------------------------------------- word boxes

function wrongReweight(it) {
  const { words } = it.values
  const names = split(words)
  const none = it.around.pair && words !== undefined && !names.length
  return [
    reversed(it, 'start', 'end'),
    none && 'No word to re-weight. Write words of the edited prompt.',
    noSuchEdit(it),
    unknown(names, chosen(it), true)
  ]
}

function wrongFaders({ values: { words }, edits }, scaled) {
  const names = split(words)
  const without = scaled === false && names.find((name) => !FACTOR.test(name))
  const none = scaled && words !== undefined && !names.length
  return [
    none && 'No word to fade by the axis scale. Write words of the edited prompt.',
    without && `No factor for ${quoted(without)}. Write one after it, as in ‘snow: 0.5’.`,
    unknown(names, edits, true)
  ]
}

/** Whether the table gives words without a factor theirs; undefined where that is not known. */
function hasScaleAxis({ values: { across, down } }) {
  if ([across, down].includes('scale')) return true
  return across === undefined || down === undefined ? undefined : false
}

function wrongBlend(it) {
  const { words, exclude_words: excluded, mask_mode: mode } = it.values
  const { mask } = it.around
  const [names, without] = [split(words), split(excluded)]
  if (mask && mode === 'replace') {
    const both =
      (names.length > 0 || without.length > 0) &&
      'Words and a mask that replaces theirs. Clear words and exclude_words, or set mask_mode to intersect or union.'
    return [both, noSuchEdit(it)]
  }
  if (mode === undefined || mask === null) return [noSuchEdit(it)]
  const noMask =
    !mask &&
    mode !== 'replace' &&
    `No mask for mask_mode ${mode}. Connect one to mask, or set mask_mode to replace; without a mask the words’ ` +
      'counts alone.'
  const edits = chosen(it)
  const prompts = edits && [it.source, ...edits]
  const missing = [unknown(names, prompts), unknown(without, prompts)]
  const alone = !missing[0] && words !== undefined && edits ? edits.map((edit) => nothingToBlend(it, names, edit)) : []
  return [noMask, noSuchEdit(it), ...missing, ...alone]
}

/** An edit that has none of the words, or, without words, no difference. */
function nothingToBlend({ connected, source, around: { pair } }, names, edit) {
  if (!names.length) {
    const sure = connected || edit.text === pair?.source
    const same = sure && edit.differs === false
    return same && `Nothing differs: ${edit.label} has the source’s own words. Name the words whose place may change.`
  }
  if ([source, edit].some(({ words }) => names.some((name) => mayBeIn(name, words)))) return null
  const none = names.length > 1 ? `None of ${listed(names.map(quoted))} is` : `${quoted(names[0])} is not`
  return (
    `${none} in the source or in ${edit.label}. Its words: ${wordsOf([edit])}. Name one of them, or set edit to the ` +
    'edit that has them.'
  )
}

function split(text) {
  return splitNames(text ?? '')
}

/**
 * Names that are in none of some prompts, {label, words}; nothing where these are not known.
 * @param {boolean} factors whether a number behind a name is its factor.
 */
function unknown(names, prompts, factors = false) {
  if (!prompts?.length) return null
  const absent = names.filter((name) => !prompts.some(({ words }) => mayBeIn(name, words, factors)))
  const strange = [...new Set(absent.map((name) => (factors ? name.replace(FACTOR, '') : name)))]
  if (!strange.length) return null
  const [one, edited] = [prompts.length === 1, prompts.every(({ label }) => label.startsWith('edit'))]
  const where = one ? `not in ${prompts[0].label}` : edited ? 'in no edited prompt' : 'in none of the prompts'
  const often = strange.some((name) => /#\d+$/.test(name)) ? ', or not that often' : ''
  const are = strange.length > 1 ? 'are' : 'is'
  const whose = one ? 'Its' : 'Their'
  return `${listed(strange.map(quoted))} ${are} ${where}${often}. ${whose} words: ${wordsOf(prompts)}.`
}

/** Whether a prompt has a name; also where only its text encoder can tell. */
function mayBeIn(name, words, factors = false) {
  if (/embedding:/i.test(name)) return true
  if (places(name, words, factors).length || places(unweighted(name), words, factors).length) return true
  if (isPlain(name)) return false
  const bare = name.replace(FACTOR, '').replace(/#\d+$/, '')
  const line = words.map(({ text }) => text).join('')
  return line.includes('\ufffd') || loose(line).includes(loose(bare))
}

/** The indices of the words that a name means. */
function places(name, words, factors = false) {
  return meant(factors ? name : `${name}: 1`, words) // with a factor of its own the rest is the name, numbers and all
}

/** A text as most text encoders read it: `(cat:1.2)` is a cat. */
function unweighted(text) {
  return text.replace(/(?<!\\)\(|(?:\s*:\s*[+-]?[\d.]+)?(?<!\\)\)/g, '')
}

/** Whether a name has only letters that all text encoders keep as they are. */
function isPlain(name) {
  return /^[ -~]*$/.test(name)
}

/** Letters as near to each other as any text encoder brings them. */
function loose(text) {
  return plain(text.normalize('NFKD').replace(/\p{M}/gu, '').replace(/[‘’‛]/g, "'").replace(/[“”„]/g, '"'))
}

function wordsOf(prompts) {
  const all = new Set(prompts.flatMap(({ words }) => words.map(({ text }) => text)))
  const words = [...all].filter((text) => /[\p{L}\p{N}]/u.test(text))
  const more = words.length - SHOWN_WORDS
  return words.slice(0, SHOWN_WORDS).join(', ') + (more > 0 ? ` and ${more} more` : '')
}

function quoted(text) {
  const line = text.replace(/\s+/g, ' ')
  return `“${line.length > SHOWN_LETTERS ? `${line.slice(0, SHOWN_LETTERS)}…` : line}”`
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1)
}

function listed(texts) {
  return texts.length > 1 ? `${texts.slice(0, -1).join(', ')} and ${texts.at(-1)}` : texts[0]
}
