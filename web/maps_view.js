/** P2P Attention Maps: pointing at a word shows its map over the picture. */

import { make, redraw, toggleButton } from './elements.js'
import { note } from './pair_view.js'
import { t } from './texts.js'

/** @param host see p2p.js; the node puts out `p2p_maps`: one picture with all tiles, and where each of them is. */
export function mapsView(host) {
  const element = make('div', { class: 'p2p-maps' })
  let kept = '0 0' // the tile that stays while nothing is pointed at: "row tile"
  return {
    element,
    state: () => ({ maps: host.output()?.p2p_maps?.[0] ?? null, kept }),
    show({ maps }) {
      const total = maps?.rows.flatMap(({ tiles }) => tiles).length
      if (!total) return redraw(element, note({ hint: t('After a run: point at a word here to see where it looks.') }))
      const picture = make('div', { class: 'p2p-map', role: 'img' })
      const caption = make('div', { class: 'p2p-note' })
      const point = (key) => {
        const [row, tile] = key.split(' ').map(Number)
        const { label, place } = maps.rows[row]?.tiles[tile] ?? maps.rows.find(({ tiles }) => tiles.length).tiles[0]
        cut(picture, host.picture(maps.picture), maps.size, place)
        picture.setAttribute('aria-label', `${label}, ${maps.rows[row]?.title}`)
        caption.textContent = label
      }
      const rows = maps.rows.map((row, i) =>
        make(
          'div',
          { class: 'p2p-flow', role: 'group', 'aria-label': row.title },
          make('div', { class: 'p2p-note p2p-line' }, row.title),
          row.tiles.map(({ label }, j) => chip(label, `${i} ${j}`, point))
        )
      )
      redraw(element, make('div', { class: 'p2p-map-side' }, picture, caption), make('div', { class: 'p2p-words' }, rows))
      point(kept)
    }
  }

  function chip(label, key, point) {
    return toggleButton(
      {
        on: key === kept,
        class: 'p2p-chip p2p-pick p2p-shared',
        'data-key': key,
        title: t('Click to keep it shown'),
        onpointerenter: () => point(key),
        onpointerleave: () => point(kept),
        onfocus: () => point(key),
        onblur: () => point(kept),
        onclick: () => {
          kept = key
          host.look()
        }
      },
      label
    )
  }
}

/** Show one tile of a picture that holds many. */
function cut(element, url, [width, height], [left, top, w, h]) {
  const at = (offset, rest) => (rest > 0 ? `${(100 * offset) / rest}%` : '0%')
  element.style.aspectRatio = `${w} / ${h}`
  element.style.backgroundImage = `url("${url}")`
  element.style.backgroundSize = `${(100 * width) / w}% ${(100 * height) / h}%`
  element.style.backgroundPosition = `${at(left, width - w)} ${at(top, height - h)}`
}
