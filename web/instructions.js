/**
 * A sentence that says what to change, as an edit of a prompt: by plain rules, in the languages of the pack, without a
 * model. "make the cat a dog", "cat -> dog", "add: at night", "remove: hat", "more snow". No DOM here.
 */

import { splitEdits } from './edits.js'
import { joinNames, plain, splitNames, withoutFactor } from './names.js'
import { t } from './texts.js'

const ARTICLE = /^(an?|the|this|that|my|his|her|its|their)\s+/i
const ARTICLE_BEFORE = /(^|[^\p{L}\p{N}])(an?|the)\s+$/iu
const JOINING = 'and|with|wearing|having|holding|in|on|under|over|at|by|near|of|behind|before|beside|from'
const PREPOSITION = new RegExp(`^(?:${JOINING}|during|inside|outside|through|without|while|like|as)\\s`, 'i')
const NO_SPACES = /[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Thai}]/u // scripts that do not part words

const MORE = 2
const LESS = 0.5

/** [kind, pattern with the words it is about]; the first that fits counts. `swapped` names them in the other order. */
const RULES = [
  ['swap', /^(.+?)\s*(?:->|=>|→)\s*(.+)$/],
  ['add', /^(?:add|include|insert|put(?: in)?|추가|追加|添加|\+)\s*[:：]\s*(.+)$/i],
  ['remove', /^(?:remove|delete|erase|제거|삭제|削除|删除|移除|去掉)\s*[:：]\s*(.+)$/i],
  ['add', /^\+\s*(.+)$/],
  ['remove', /^-\s*(.+)$/],
  // Chinese
  ['swap', /^(?:请)?[把将]?\s*(.+?)\s*(?:替换成|替换为|换成|换为|变成|变为|改成|改为)\s*(.+)$/],
  ['add', /^(?:请)?(?:添加|增加|加上|加入|加)\s*(.+)$/],
  ['remove', /^(?:请)?(?:去掉|去除|删除|删掉|移除|拿掉|不要)\s*(.+)$/],
  ['more', /^更多的?\s*(.+)$/],
  ['less', /^(?:更少的?|减少)\s*(.+)$/],
  // Japanese
  ['swap', /^(.+?)を\s*(.+?)に\s*(?:変|替|換|置|す|し).*$/],
  ['add', /^(.+?)を\s*(?:追加|足|加|付け|入れ).*$/],
  ['remove', /^(.+?)を\s*(?:削除|消|除|取り|なく|外).*$/],
  ['more', /^(?:もっと|より多くの)\s*(.+)$/],
  ['more', /^(.+?)を\s*(?:強|増).*$/],
  ['less', /^(.+?)を\s*(?:弱|減).*$/],
  // Korean
  ['more', /^(.+?)[을를]?\s+더\s*(?:많이|강하게).*$/],
  ['less', /^(.+?)[을를]?\s+(?:덜|더\s*적게|더\s*약하게).*$/],
  ['swap', /^(.+?)[을를]\s+(.+?)(?:으로|로)\s*(?:바꾸|바꿔|변경|교체|대체|만들).*$/],
  ['add', /^(.+?)[을를]?\s*(?:추가|더해|넣어).*$/],
  ['remove', /^(.+?)[을를]?\s*(?:제거|삭제|빼|지워|없애).*$/],
  // English
  ['swapped', /^(?:draw |show |use |have |i want )?(.+?)\s+instead of\s+(.+)$/i],
  ['swap', /^(?:replace|exchange|swap)\s+(.+?)\s+(?:with|by|for|to)\s+(.+)$/i],
  ['swap', /^(?:turn|change|convert|transform|make)\s+(.+?)\s+(?:into|to)\s+(.+)$/i],
  ['add', /^make it\s+(.+)$/i],
  ['make', /^(?:make|turn|paint|color|colour|dye)\s+(.+)$/i],
  ['add', /^(?:add|include|insert|put in)\s+(.+)$/i],
  ['remove', /^(?:remove|delete|erase|drop|take (?:away|out)|get rid of|without|no)\s+(.+)$/i],
  ['more', /^more\s+(.+)$/i],
  ['less', /^(?:less|fewer)\s+(.+)$/i]
]

/**
 * What an instruction makes of the prompts of P2P Edit. Several are separated by semicolons or lines.
 * @param {{source: string, target: string, words: string}} prompts as they stand on the node; of several edits the last
 * one is changed.
 * @returns {{target: string, words: string, edit: string} | {error: string}} `edit` is the changed edit alone.
 */
export function instructed(instruction, { source, target, words }) {
  const sentences = instruction.split(/[;；\n]/).map((each) => each.trim().replace(/[.!。！]+$/, '').replace(/^please\s+/i, ''))
  const parts = splitEdits(target)
  const now = { source: source.trim(), edit: parts.pop() || source.trim(), words: words.trim() }
  if (!now.source) return { error: t('Write first what the picture shows, as the source prompt.') }
  for (const sentence of sentences.filter(Boolean)) {
    const error = follow(sentence, now)
    if (error) return { error }
  }
  return { target: [...parts, now.edit].join('\n---\n'), words: now.words, edit: now.edit }
}

/** Change `now`; gives a sentence where that is not possible. */
function follow(sentence, now) {
  for (const [kind, pattern] of RULES) {
    const found = pattern.exec(sentence)
    if (!found) continue
    const [first, second] = found.slice(1).map((each) => each.trim())
    if (kind === 'swap') return swap(now, first, second)
    if (kind === 'swapped') return swap(now, second, first)
    if (kind === 'make') return makeIt(now, first)
    if (kind === 'add') return add(now, first)
    if (kind === 'remove') return remove(now, first)
    return fade(now, first, kind === 'more' ? MORE : LESS)
  }
  return t(
    '“{sentence}” is not understood. Write “make the cat a dog”, “cat -> dog”, “add: at night”, “remove: hat” or ' +
      '“more snow”.',
    { sentence }
  )
}

function swap(now, from, to) {
  const name = bare(from)
  const text = [now.edit, now.source].find((each) => places(each, name).length)
  if (text === undefined) return missing(name, now)
  now.edit = replaced(text, name, to)
}

/** "the cat a dog" is a swap, "the cat red" says more of the cat, and "night" is added. */
function makeIt(now, said) {
  const words = bare(said).split(/\s+/)
  for (let count = words.length - 1; count > 0; count--) {
    const [name, rest] = [words.slice(0, count).join(' '), words.slice(count).join(' ')]
    const text = [now.edit, now.source].find((each) => places(each, name).length)
    if (text === undefined) continue
    now.edit = replaced(text, name, ARTICLE.test(rest) ? rest : `${rest} ${name}`)
    return
  }
  const name = /^(.+?)\s+(?:an?|the)\s/i.exec(`${words.join(' ')} `)?.[1] ?? words.slice(0, -1).join(' ')
  return missing(name || said, now)
}

function add(now, what) {
  const end = /[.。]$/.exec(now.edit)?.[0] ?? ''
  const before = end ? now.edit.slice(0, -1) : now.edit
  const sentence = PREPOSITION.test(what) && !before.includes(',')
  const comma = NO_SPACES.test(before) ? '，' : ', '
  now.edit = `${before}${sentence ? ' ' : comma}${what}${end}`
}

function remove(now, what) {
  const name = bare(what)
  const found = places(now.edit, name)
  if (!found.length) return missing(name, now)
  for (const [start, end] of found.reverse()) now.edit = without(now.edit, start, end)
  if (!now.edit) return t('Without “{name}” nothing is left of the prompt.', { name })
}

function fade(now, what, scale) {
  const name = bare(what)
  if (!places(now.edit, name).length) return missing(name, now)
  const others = splitNames(now.words).filter((entry) => plain(withoutFactor(entry)) !== plain(name))
  now.words = [...others, `${name}: ${scale}`].map((entry) => joinNames([entry])).join('\n')
}

function missing(name, { edit }) {
  return t('“{name}” is not in the prompt “{edit}”.', { name, edit })
}

function bare(phrase) {
  return phrase.replace(ARTICLE, '').replace(/^["“'‘「]|["”'’」]$/g, '').trim()
}

/** [start, end] of a phrase, wherever it stands as whole words. */
function places(text, phrase) {
  const words = phrase.split(/\s+/).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'))
  if (!words[0]) return []
  const whole = (letter, side) => (NO_SPACES.test(letter) ? '' : side)
  const before = whole(phrase[0], '(?<![\\p{L}\\p{N}])')
  const after = whole(phrase.at(-1), '(?![\\p{L}\\p{N}])')
  const pattern = new RegExp(`${before}${words.join('\\s+')}${after}`, 'giu')
  return [...text.matchAll(pattern)].map((match) => [match.index, match.index + match[0].length])
}

/** Each `name` by `to`, with articles that fit. */
function replaced(text, name, to) {
  const article = ARTICLE.exec(to)?.[0] ?? ''
  for (const [start, end] of places(text, name).reverse()) {
    let before = text.slice(0, start)
    const old = ARTICLE_BEFORE.exec(before)
    const named = to.slice(article.length)
    if (old) {
      const own = article ? article.trim() : fitting(old[2], named)
      before = `${before.slice(0, old.index + old[1].length)}${own} `
    }
    text = before + named + text.slice(end)
  }
  return text
}

/** "a" or "an" before a word; other articles stay. */
function fitting(article, word) {
  if (article.toLowerCase() === 'the') return article
  const an = /^[aeiou]/i.test(word) ? 'an' : 'a'
  return /^A/.test(article) ? an[0].toUpperCase() + an.slice(1) : an
}

/** A text without what stands from `start` to `end`, and without what led to it: ", with a". */
function without(text, start, end) {
  let [before, after] = [text.slice(0, start), text.slice(end)]
  const describes = /^\s+[\p{L}\p{N}]/u.test(after) && !new RegExp(`^\\s+(?:${JOINING}|is|are|during|while)\\s`, 'i').test(after)
  if (!describes) {
    before = before.replace(ARTICLE_BEFORE, '$1')
    before = before.replace(new RegExp(`(^|[^\\p{L}\\p{N}])(?:${JOINING})\\s+$`, 'iu'), '$1')
    before = before.replace(/[\s,，、和与と]+$/u, '')
  }
  const joined = before.trim() ? before + after : after.replace(/^[\s,，、]*(?:and\s+)?/i, '')
  return joined.replace(/\s{2,}/g, ' ').replace(/\s+([,.，。])/g, '$1').replace(/^[\s,，、]+|[\s,，、]+$/g, '')
}
