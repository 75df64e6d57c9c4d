'use strict'
// Hands on the wire: messages seen and changed, bytes counted, delayed, cut.

const { Transform } = require('stream')
const Channel = require('hypercore-protocol/feed')

const NAMES = ['feed', 'handshake', 'info', 'have', 'unhave', 'want', 'unwant', 'request', 'cancel', 'data']

// incoming(channel, name, message) -> false drops it; outgoing(channel, name, message) -> the message to send
exports.watch = ({ incoming, outgoing }) => {
  const emit = Channel.prototype._emit
  const send = Channel.prototype._send
  Channel.prototype._emit = function (type, message) {
    if (incoming(this, NAMES[type], message) !== false) emit.call(this, type, message)
  }
  Channel.prototype._send = function (type, encoding, message) {
    return send.call(this, type, encoding, outgoing(this, NAMES[type], message))
  }
}

exports.counter = onbytes => new Transform({
  transform (bytes, _, done) {
    onbytes(bytes.length)
    done(null, bytes)
  }
})

// Every byte comes `ms` later, in order; nothing waits for the one before
exports.delay = ms => new Transform({
  highWaterMark: 1 << 26,
  transform (bytes, _, done) {
    setTimeout(() => { if (!this.destroyed) this.push(bytes) }, ms)
    done()
  },
  flush (done) {
    setTimeout(done, ms)
  }
})

// At most `rate` bytes a second, in fifty pieces
exports.throttle = rate => {
  const step = Math.max(1, Math.floor(rate / 50))
  return new Transform({
    transform (bytes, _, done) {
      const next = at => {
        if (at >= bytes.length) return done()
        const part = bytes.slice(at, at + step)
        setTimeout(() => {
          if (this.destroyed) return
          this.push(part)
          next(at + step)
        }, part.length * 1000 / rate)
      }
      next(0)
    }
  })
}

// Lets exactly `total` bytes through, then calls `onend` once and swallows the rest
exports.cut = (total, onend) => {
  let left = total
  return new Transform({
    transform (bytes, _, done) {
      if (left <= 0) return done()
      this.push(bytes.slice(0, left))
      left -= bytes.length
      if (left <= 0) setImmediate(onend)
      done()
    }
  })
}

exports.pipeline = streams => streams.reduce((from, to) => {
  to.on('error', () => {}) // the ends report; a broken pipe in between has nothing to add
  return from.pipe(to)
})
