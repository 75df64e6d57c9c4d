#!/usr/bin/env node
'use strict'
// Serves a drive over TCP until stdin ends or it is killed. JSON lines on stdout, the first one "listening".

const net = require('net')
const readline = require('readline')
const c = require('./common')
const link = require('./link')

const usage = `serve.js DIR [flags]          the folder is never changed
  --host H --port N            where to listen (default 127.0.0.1 and any free port)
  --seed HEX64                 seed of the key pair, to append to a folder without secret key
  --log                        a line for every message, both ways (always: a line for every request)
  --quiet                      no lines for requests
  --latency-ms N               every byte comes N ms later, each way
  --bandwidth N                bytes a second to each client
  --only-chunks R              has only these content chunks: 0-9,12 or none
  --only-metadata R            the same for the metadata register
  --corrupt-chunk N            flips a bit of content chunk N (repeatable); --corrupt-metadata N likewise
  --corrupt-proof N            flips a bit of the first hash sent with content chunk N (repeatable)
  --corrupt-signature          flips a bit of every signature
  --wrong-index N              content chunk N is answered with the bytes and the proof of N+1 (repeatable)
  --drop-after N               closes a connection after N bytes; --drop-first K only the first K connections
  --stall-after N              answers N requests for content chunks, then none; --stall-metadata-after N likewise
  --silent                     accepts connections and sends nothing
  --no-keepalive               sends no keep-alives
on stdin, a JSON object a line: an operation of common.js, or {"op": "hangup"} to close all connections;
each is answered by "applied" or "failed"`

const args = c.flags({
  host: 'text', port: 'number', seed: 'text', log: 'switch', quiet: 'switch', 'latency-ms': 'number', bandwidth: 'number',
  'only-chunks': 'text', 'only-metadata': 'text', 'corrupt-chunk': 'list', 'corrupt-metadata': 'list', 'corrupt-proof': 'list',
  'corrupt-signature': 'switch', 'wrong-index': 'list', 'drop-after': 'number', 'drop-first': 'number', 'stall-after': 'number',
  'stall-metadata-after': 'number', silent: 'switch', 'no-keepalive': 'switch'
}, usage)

const sockets = new Set()
let connections = 0

async function main () {
  if (args._.length !== 1) throw new Error(usage)
  const secretKey = args.seed ? c.keyPair(args.seed).secretKey : undefined
  const drive = await c.openFrozen(args._[0], { secretKey })
  await c.contentReady(drive)
  forget(drive.content, args['only-chunks'])
  forget(drive.metadata, args['only-metadata'])
  interfere(drive)

  const server = net.createServer(socket => serve(drive, socket))
  server.on('error', c.fail)
  server.listen(args.port || 0, args.host || '127.0.0.1', () => {
    const { address, port } = server.address()
    c.say('listening', Object.assign({ host: address, port, layout: drive.layout }, c.describe(drive)))
  })
  obey(drive)
}

function forget (register, text) {
  if (text === undefined) return
  const keep = c.ranges(text)
  for (let i = 0; i < register.length; i++) if (!keep.has(i)) register.bitfield.set(i, false)
}

function interfere (drive) {
  const answered = { metadata: 0, content: 0 }
  const limit = { metadata: args['stall-metadata-after'], content: args['stall-after'] }
  const corrupt = { metadata: args['corrupt-metadata'], content: args['corrupt-chunk'] }
  const named = channel => drive.key.equals(channel.key) ? 'metadata' : 'content'
  const log = (direction, channel, name, message) => {
    if (!args.log || name === 'feed') return
    c.say(direction, { connection: channel.stream.connection, register: named(channel), message: name, fields: plain(message) })
  }
  link.watch({
    incoming (channel, name, message) {
      log('in', channel, name, message)
      if (name !== 'request') return true
      const register = named(channel)
      const stalled = limit[register] !== undefined && answered[register] >= limit[register]
      if (!stalled && !message.hash) answered[register]++
      if (!args.quiet) {
        const { index, bytes, hash, nodes } = message
        c.say('request', { connection: channel.stream.connection, register, index, bytes, hash, nodes, answered: !stalled, at: Date.now() })
      }
      return !stalled
    },
    outgoing (channel, name, message) {
      let out = message
      if (name === 'data') {
        const register = named(channel)
        const at = String(message.index)
        out = Object.assign({}, message)
        if (corrupt[register].includes(at) && message.value) out.value = flipped(message.value)
        if (register === 'content' && args['corrupt-proof'].includes(at) && message.nodes.length) {
          const [first, ...rest] = message.nodes
          out.nodes = [{ index: first.index, hash: flipped(first.hash), size: first.size }, ...rest]
        }
        if (args['corrupt-signature'] && message.signature) out.signature = flipped(message.signature)
      }
      log('out', channel, name, out)
      return out
    }
  })

  const wrong = new Set(args['wrong-index'].map(Number))
  for (const method of ['proof', '_getBuffer']) {
    const right = drive.content[method]
    drive.content[method] = function (index, ...rest) {
      return right.call(this, wrong.has(index) ? index + 1 : index, ...rest)
    }
  }
}

function flipped (bytes) {
  const out = Buffer.from(bytes)
  out[out.length >> 1] ^= 1
  return out
}

// Long byte strings by their length: a log of the chunks themselves helps nobody
function plain (message) {
  return JSON.parse(JSON.stringify(message, (_, value) => {
    if (!value || value.type !== 'Buffer') return value
    return value.data.length > 64 ? { length: value.data.length } : Buffer.from(value.data).toString('hex')
  }))
}

function serve (drive, socket) {
  const connection = ++connections
  const bytes = { in: 0, out: 0 }
  sockets.add(socket)
  socket.setNoDelay(true)
  socket.on('error', () => {}) // 'close' follows and is logged
  socket.on('close', () => {
    sockets.delete(socket)
    c.say('close', { connection, bytesIn: bytes.in, bytesOut: bytes.out })
  })
  c.say('connection', { connection })
  if (args.silent) return socket.resume()

  const protocol = drive.replicate({ live: true, upload: true, download: false })
  protocol.connection = connection
  if (args['no-keepalive']) protocol.ping = () => true
  protocol.on('handshake', () => c.say('handshake', { connection, live: protocol.remoteLive, id: protocol.remoteId.toString('hex') }))
  protocol.on('error', err => c.say('error', { connection, message: err.message }))
  protocol.on('close', () => socket.destroy())
  socket.on('close', () => protocol.destroy())

  const inward = [link.counter(n => { bytes.in += n })]
  const outward = []
  if (args['latency-ms']) {
    inward.push(link.delay(args['latency-ms']))
    outward.push(link.delay(args['latency-ms']))
  }
  if (args.bandwidth) outward.push(link.throttle(args.bandwidth))
  if (args['drop-after'] !== undefined && !(connection > args['drop-first'])) {
    outward.push(link.cut(args['drop-after'], () => {
      c.say('drop', { connection })
      socket.end(() => socket.destroy())
    }))
  }
  outward.push(link.counter(n => { bytes.out += n }))
  link.pipeline([socket, ...inward, protocol, ...outward, socket])
}

// Operations from stdin, one after the other. The end of stdin ends us, so that no peer outlives who started it.
function obey (drive) {
  let turn = Promise.resolve()
  const lines = readline.createInterface({ input: process.stdin })
  lines.on('close', () => process.exit(0))
  lines.on('line', line => {
    turn = turn.then(async () => {
      const op = JSON.parse(line)
      if (op.op === 'hangup') for (const socket of sockets) socket.destroy()
      else await c.applyOperation(drive, op, Date.now())
      c.say('applied', c.describe(drive))
    }).catch(err => c.say('failed', { message: err.message }))
  })
}

main().catch(c.fail)
