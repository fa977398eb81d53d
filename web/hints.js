/**
 * What a node will refuse, or do in vain, as far as it is known before Run. Each sentence says what the node would say
 * (p2p_attention/), the sense in its first words; where the page cannot be sure, nothing is said. No DOM here.
 */

import { firstChoices, hasChoices } from './choices.js'
import { kindName } from './columns.js'
import { splitEdits } from './edits.js'
import { hasFactor, meant, plain, splitNames, withoutFactor } from './names.js'
import { nameOf } from './option_names.js'
import { t } from './texts.js'
import { readWindows } from './windows.js'

const SHOWN_WORDS = 12 // of a long prompt; all are drawn above
const SHOWN_LETTERS = 40 // of a name
const FROM_CONDITIONING = 'P2PPairFromConditioning'
const PAIR_NAMES = {
  P2PPromptPair: 'P2P Prompt Pair',
  [FROM_CONDITIONING]: 'P2P Pair From Conditioning',
  P2PEdit: 'P2P Edit',
  P2PGrid: 'P2P Grid'
}
const WITH_FADERS = ['P2PEdit', 'P2PGrid'] // an empty target is there the source, with words faded
const BY_WORDS = /^everything but the words$/ // of P2P Edit's keep
const WANTS_A_PLACE = /^words( and change)?$/ // of P2P Local Blend Mask's mask_from
const OR_EVERYWHERE = /or everywhere$/ // wants one of some edit
const WINDOWS = ['cross_start', 'cross_end', 'self_start', 'self_end', 'word_windows', 'edit']

/** Node id -> the widgets that are looked at. */
export const LOOKED_AT = {
  P2PPromptPair: [],
  P2PPairFromConditioning: [],
  P2PEdit: ['words', 'keep'],
  P2PGrid: ['words', 'across', 'down'],
  P2PAttentionReplace: WINDOWS,
  P2PAttentionRefine: WINDOWS,
  P2PReweightToken: ['words', 'start', 'end', 'edit'],
  P2PLocalBlendMask: ['words', 'exclude_words', 'mask_mode', 'edit', 'mask_from'],
  P2PRecordAttention: ['words']
}

/** Node id -> [what is refused, what is in vain]; the latter is not reached, nor said, where there is the former. */
const SAYS = {
  P2PPromptPair: [(it) => [emptyEdit(it)], (it) => [noEdit(it), invertedByAnother(it)]],
  P2PPairFromConditioning: [(it) => [emptyEdit(it)], (it) => [noEdit(it)]],
  P2PEdit: [
    (it) => [emptyEdit(it), nothingToChange(it), ...wrongFaders(it, false), nowhereToChange(it)],
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
  const source = answer && { number: 0, words: answer.prompts[0].words }
  const it = { kind, values, around, edits, source, connected: answer?.tokenizer.connected }
  const [refused, inVain] = SAYS[kind].map((say) => say(it).filter(Boolean))
  return refused.length ? refused : inVain
}

/**
 * {number, words, text, kinds, differs} of each edited prompt, number 1 on; the last two are null where the alignment is
 * not known. All is null where not even that is known.
 */
function editsOf(answer, pair) {
  const [source, ...edited] = answer.prompts
  if (!edited.length && WITH_FADERS.includes(pair?.kind)) {
    if (!pair.words?.trim()) return null
    const kinds = source.words.map(() => 'shared')
    return [{ number: 1, words: source.words, text: pair.source, kinds, differs: false }]
  }
  const texts = splitEdits(pair?.target ?? '')
  return edited.map(({ words }, i) => {
    const spans = answer.refused ? null : answer.edits[i]
    const kinds = spans && words.map((_, word) => spans.find(({ target }) => target.includes(word))?.kind)
    const differs = spans && spans.some((span) => span.kind !== 'shared')
    return { number: i + 1, words, text: texts[i], kinds, differs }
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
  const number = empty + 1
  return number > 0 && t('No word in edit {number}. Edits are separated by a line ‘---’, one prompt each.', { number })
}

function nothingToChange({ values: { words }, around: { pair } }) {
  const nothing = pair.source?.trim() && pair.target?.trim() === '' && words?.trim() === ''
  return (
    nothing &&
    t(
      'Nothing to change: no target and no words to fade. Write the edited prompt, or lines ‘word: scale’ as in ' +
        '‘snow: 0.5’.'
    )
  )
}

/** Where the words that change say which place may change, an edit that changes none. */
function nowhereToChange({ values: { words, keep }, connected, edits, around: { pair } }) {
  if (!BY_WORDS.test(keep) || words?.trim() !== '') return null
  const same = edits?.find((edit) => hasTheSourcesWords(edit, connected, pair))
  return (
    same &&
    t(
      'Nothing differs: edit {number} has the source’s own words. Exchange, add or remove a word, or fade one, as in ' +
        '‘snow: 0.5’.',
      { number: same.number }
    )
  )
}

function nothingToEdit({ kind, around: { pair } }, edits) {
  const known = pair && edits && pair.source && pair.words !== null && !pair.faded
  if (!known || pair.kind === FROM_CONDITIONING) return null // encodings of one text may differ
  const faders = splitNames(pair.words)
  const isFaded = ({ words }) => faders.some((name) => mayBeIn(name, words, true))
  const same = edits.find((edit) => edit.text === pair.source && !isFaded(edit))
  if (!same) return null
  const values = { number: same.number, node: PAIR_NAMES[pair.kind] }
  return WITH_FADERS.includes(kind)
    ? t(
        'Edit {number} has the same text as the source, so there is nothing to edit. Change its prompt in {node}, or ' +
          'fade one of its words, as in ‘snow: 0.5’.',
        values
      )
    : t(
        'Edit {number} has the same text as the source, so there is nothing to edit. Change its prompt in {node}, or ' +
          'fade one of its words with P2P Reweight Token.',
        values
      )
}

function noEdit({ around }) {
  return (
    around.unused &&
    t(
      'No edit: the pair’s conditioning goes to a sampler whose model no P2P node has touched, so of each latent ' +
        'only one of the prompts is drawn. Put a P2P Attention node, with this pair, between the model and the sampler.'
    )
  )
}

function invertedByAnother({ around: { pair, inverted } }) {
  if (!pair.source) return null
  const isOther = (text) => text.trim() && letters(text) !== letters(pair.source)
  const other = inverted.find((text) => ![text, pair.source].some(hasChoices) && isOther(text))
  return (
    other !== undefined &&
    t(
      'Another source prompt than P2P DDIM Invert’s, which goes back by {text}: the source does not come back by ' +
        'itself, and edits start from other words. Connect the conditioning of {node} to both.',
      { text: quoted(other), node: PAIR_NAMES[pair.kind] }
    )
  )
}

/** A text without what may be the same to the text encoder: case, spaces, comments and weights. */
function letters(text) {
  return plain(unweighted(firstChoices(text)))
}

// ------------------------------------------------------------------------------------------------- numbers and windows

function noSuchEdit({ values: { edit }, edits, around: { pair } }) {
  if (!edits) return null
  const values = { number: edit, count: edits.length, node: PAIR_NAMES[pair?.kind] ?? PAIR_NAMES.P2PPromptPair }
  if (!edits.length) {
    return t('No edited prompt: the pair is the source alone. Write one in the target of {node}.', values)
  }
  if (!(edit > edits.length)) return null
  return edits.length === 1
    ? t(
        'No edit {number}: the pair has 1 edited prompt. Add a prompt after a line ‘---’ in {node}, or lower the ' +
          'number.',
        values
      )
    : t(
        'No edit {number}: the pair has {count} edited prompts. Add a prompt after a line ‘---’ in {node}, or lower ' +
          'the number.',
        values
      )
}

function reversed({ values }, start, end) {
  const shown = (name) => `${name} ${Number(values[name].toFixed(4))}`
  return (
    values[start] > values[end] &&
    t('{start} is behind {end}. Wanted 0 <= start <= end <= 1, fractions of the steps; 0 to 0 is never.', {
      start: shown(start),
      end: shown(end)
    })
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
  const values = {
    word: quoted(word),
    kinds: listed([...kinds].sort().map(kindName)),
    node: name,
    injected: listed(injected.map(kindName))
  }
  return swapped
    ? t(
        'No effect: the window for {word}, which is {kinds}. {node} takes over the source’s map for {injected} ' +
          'words. Remove that line, or use P2P Attention Replace.',
        values
      )
    : t(
        'No effect: the window for {word}, which is {kinds}. {node} takes over the source’s map for {injected} ' +
          'words. Remove that line.',
        values
      )
}

// ---------------------------------------------------------------------------------------------------------- word boxes

function wrongReweight(it) {
  const { words } = it.values
  const names = split(words)
  const none = it.around.pair && words !== undefined && !names.length
  return [
    reversed(it, 'start', 'end'),
    none && t('No word to re-weight. Write words of the edited prompt.'),
    noSuchEdit(it),
    unknown(names, chosen(it), true)
  ]
}

function wrongFaders({ values: { words }, edits }, scaled) {
  const names = split(words)
  const without = scaled === false && names.find((name) => !hasFactor(name))
  const none = scaled && words !== undefined && !names.length
  return [
    none && t('No word to fade by the axis scale. Write words of the edited prompt.'),
    without && t('No factor for {word}. Write one after it, as in ‘snow: 0.5’.', { word: quoted(without) }),
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
      t('Words and a mask that replaces theirs. Clear words and exclude_words, or set mask_mode to intersect or union.')
    return [both, noSuchEdit(it)]
  }
  if (mode === undefined || mask === null) return [noSuchEdit(it)]
  const noMask =
    !mask &&
    mode !== 'replace' &&
    t(
      'No mask for mask_mode {mode}. Connect one to mask, or set mask_mode to replace; without a mask the words’ ' +
        'counts alone.',
      { mode: nameOf(mode) }
    )
  const edits = chosen(it)
  const prompts = edits && [it.source, ...edits]
  const missing = [unknown(names, prompts), unknown(without, prompts)]
  const alone = !missing[0] && words !== undefined && edits ? edits.map((edit) => nothingToBlend(it, names, edit, edits)) : []
  return [noMask, noSuchEdit(it), ...missing, ...alone]
}

/** Another text encoder than the connected one may read a weight as words. */
function hasTheSourcesWords({ differs, text }, connected, pair) {
  return differs === false && (connected || text === pair?.source)
}

/** An edit that has none of the words, or, without words, no difference. */
function nothingToBlend({ connected, source, values: { mask_from: from }, around: { pair } }, names, edit, edits) {
  const { number } = edit
  if (!names.length) {
    const those = WANTS_A_PLACE.test(from) ? [edit] : OR_EVERYWHERE.test(from) ? edits : []
    return (
      those.length > 0 &&
      those.every((each) => hasTheSourcesWords(each, connected, pair)) &&
      t('Nothing differs: edit {number} has the source’s own words. Name the words whose place may change.', { number })
    )
  }
  if ([source, edit].some(({ words }) => names.some((name) => mayBeIn(name, words)))) return null
  const values = { names: listed(names.map(quoted)), number, words: wordsOf([edit]) }
  return names.length > 1
    ? t(
        'None of {names} is in the source or in edit {number}. Its words: {words}. Name one of them, or set edit to ' +
          'the edit that has them.',
        values
      )
    : t(
        '{names} is not in the source or in edit {number}. Its words: {words}. Name one of them, or set edit to the ' +
          'edit that has them.',
        values
      )
}

function split(text) {
  return splitNames(text ?? '')
}

/**
 * Names that are in none of some prompts, {number, words}; nothing where these are not known.
 * @param {boolean} factors whether a number behind a name is its factor.
 */
function unknown(names, prompts, factors = false) {
  if (!prompts?.length) return null
  const absent = names.filter((name) => !prompts.some(({ words }) => mayBeIn(name, words, factors)))
  const strange = [...new Set(absent.map((name) => (factors ? withoutFactor(name) : name)))]
  if (!strange.length) return null
  const counted = strange.some((name) => /#\d+$/.test(name))
  const where = counted ? t('{where}, or not that often', { where: notIn(prompts) }) : notIn(prompts)
  const values = { names: listed(strange.map(quoted)), where, words: wordsOf(prompts) }
  if (prompts.length === 1) {
    return strange.length === 1
      ? t('{names} is {where}. Its words: {words}.', values)
      : t('{names} are {where}. Its words: {words}.', values)
  }
  return strange.length === 1
    ? t('{names} is {where}. Their words: {words}.', values)
    : t('{names} are {where}. Their words: {words}.', values)
}

/** What a sentence says of what is in none of some prompts. */
function notIn([{ number }, ...others]) {
  if (others.length) return number ? t('in no edited prompt') : t('in none of the prompts')
  return number ? t('not in edit {number}', { number }) : t('not in the source')
}

/** Whether a prompt has a name; also where only its text encoder can tell. */
function mayBeIn(name, words, factors = false) {
  if (/embedding:/i.test(name)) return true
  if (places(name, words, factors).length || places(unweighted(name), words, factors).length) return true
  if (isPlain(name)) return false
  const bare = withoutFactor(name).replace(/#\d+$/, '')
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
  const shown = words.slice(0, SHOWN_WORDS).join(', ')
  const count = words.length - SHOWN_WORDS
  return count > 0 ? t('{words} and {count} more', { words: shown, count }) : shown
}

function quoted(text) {
  const line = text.replace(/\s+/g, ' ')
  return `“${line.length > SHOWN_LETTERS ? `${line.slice(0, SHOWN_LETTERS)}…` : line}”`
}

function listed(texts) {
  const [some, last] = [texts.slice(0, -1).join(', '), texts.at(-1)]
  return some ? t('{some} and {last}', { some, last }) : last
}
