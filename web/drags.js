/** A press that moves is a drag. No view knows of another's. */

const LEAST = 4 // pixels before a press becomes a drag

/**
 * Follow a press until it is let go.
 * @param pressed the event `pointerdown`.
 * @param {{start?: () => void, move: (event) => void, end: (event) => void}} drag called once it has become a drag. The
 * click that comes with its end is nobody's.
 */
export function followDrag(pressed, { start, move, end }) {
  let dragged = false
  const moved = (event) => {
    if (!dragged && Math.hypot(event.clientX - pressed.clientX, event.clientY - pressed.clientY) < LEAST) return
    if (!dragged) start?.()
    dragged = true
    move(event)
  }
  const ended = (event) => {
    removeEventListener('pointermove', moved, true)
    removeEventListener('pointerup', ended, true)
    removeEventListener('pointercancel', ended, true)
    if (!dragged) return
    addEventListener('click', stop, { capture: true, once: true })
    setTimeout(() => removeEventListener('click', stop, true))
    end(event)
  }
  addEventListener('pointermove', moved, true)
  addEventListener('pointerup', ended, true)
  addEventListener('pointercancel', ended, true)
}

function stop(event) {
  event.stopPropagation()
  event.preventDefault()
}
