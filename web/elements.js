/** Page elements, made when a view is made: importing this does nothing. */

/**
 * An element. Properties in camelCase are set on it; `class`, `style`, `data-*`, `aria-*` and `role` are attributes.
 * A `data-key` lets the focus stay where it was when a view is drawn anew.
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(properties)) {
    if (value == null || value === false) continue
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value)
    else if (/^(class|style|role|tabindex|title|(data|aria)-.*)$/.test(name)) element.setAttribute(name, value)
    else element[name] = value
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false))
  return element
}

/** Exchange what a view shows; whoever has the keyboard keeps it. */
export function redraw(root, ...children) {
  const focused = root.contains(document.activeElement) ? document.activeElement.dataset.key : undefined
  root.replaceChildren(...children.flat(Infinity).filter(Boolean))
  if (focused) root.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true })
}

/** A button that is on or off. */
export function toggleButton({ on, ...properties }, ...children) {
  return make('button', { type: 'button', 'aria-pressed': String(on), ...properties }, ...children)
}

/** A button that shows or hides what belongs under it. */
export function opener({ open, onclick }, label) {
  const properties = { type: 'button', class: 'p2p-opener', 'data-key': label, 'aria-expanded': String(open), onclick }
  return make('button', properties, `${open ? '▾' : '▸'} ${label}`)
}
