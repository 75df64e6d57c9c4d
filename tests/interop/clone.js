#!/usr/bin/env node
'use strict'
// Downloads a drive with the reference implementation and says what it got, as JSON lines; the last one is "done".

const fs = require('fs')
const net = require('net')
const path = require('path')
const hyperdrive = require('hyperdrive')
const raf = require('random-access-file')
const ram = require('random-access-memory')
const c = require('./common')
const link = require('./link')

const usage = `clone.js --key HEX64 (--port N | --listen) [flags]
  --port N           repeatable: from several peers at once
  --host H           default 127.0.0.1
  --listen           wait for the other side to connect ("listening" says where) instead of dialing it
  --store DIR        keep it there, sleep layout (default: in memory)
  --path P           only this file (repeatable), and only the chunks it needs
  --version N        the files of version N, not of the newest
  --each             before that, a "checkout" for each version with all of its files
  --out DIR          write what the version holds there, with modes and times
  --live N           first say each version as it comes ("version"), up to version N
  --no-files         read every file without a line and a hash for each
  --timeout SECONDS  give up (default 60)
exit code 0 with "done"; 3 time is over; 4 the reference refused what it got; 5 the other side closed`

const args = c.flags({
  key: 'text', port: 'list', host: 'text', listen: 'switch', store: 'text', path: 'list', version: 'number', each: 'switch',
  out: 'text', live: 'number', 'no-files': 'switch', timeout: 'number'
}, usage)

const started = Date.now()
let finished = false // closing the store makes the reference report its own requests as failed

function end (code, event, fields) {
  c.say(event, Object.assign({ seconds: (Date.now() - started) / 1000 }, fields))
  process.exit(code)
}

async function main () {
  if (!args.key || !args.port.length === !args.listen || args._.length) throw new Error(usage)
  setTimeout(() => end(3, 'timeout'), 1000 * (args.timeout || 60)).unref()

  const sparse = args.path.length > 0
  const storage = register => name => args.store ? raf(path.join(args.store, '.dat', `${register}.${name}`)) : ram()
  const drive = hyperdrive({ metadata: storage('metadata'), content: storage('content') }, args.key, { sparse, sparseMetadata: sparse })
  drive.on('error', err => { if (!finished) end(4, 'refused', { message: err.message }) })

  const bytes = { in: 0, out: 0 }
  for (const socket of await connections()) {
    const protocol = drive.replicate({ live: true, upload: false, download: true })
    protocol.on('error', err => { if (!finished) end(4, 'refused', { message: err.message }) })
    socket.setNoDelay(true)
    socket.on('error', err => c.say('socket-error', { message: err.message }))
    socket.on('close', () => { if (!finished) end(5, 'closed', { wireIn: bytes.in }) })
    link.pipeline([socket, link.counter(n => { bytes.in += n }), protocol, link.counter(n => { bytes.out += n }), socket])
  }

  await call(drive.metadata, 'ready') // without it a store that is there has the length 0
  if (!drive.metadata.length) await call(drive.metadata, 'update')
  await c.contentReady(drive)
  for (let seen = -1; args.live !== undefined; await call(drive.metadata, 'update')) {
    if (drive.version !== seen) c.say('version', { version: seen = drive.version })
    if (seen >= args.live) break
  }
  for (let v = 0; args.each && v <= drive.version; v++) {
    const old = drive.checkout(v)
    const files = {}
    for (const entry of await c.listing(old)) if (!entry.directory) files[entry.path] = (await c.readHashed(old, entry.path)).sha256
    c.say('checkout', { version: v, files })
  }
  const at = args.version === undefined ? drive : drive.checkout(args.version)
  const wanted = sparse ? args.path : (await c.listing(at)).filter(e => !e.directory).map(e => e.path)
  let size = 0
  for (const name of wanted) {
    if (args['no-files']) {
      size += await discard(at, name)
      continue
    }
    const file = await c.readHashed(at, name)
    size += file.size
    c.say('file', file)
  }
  if (args.out) await extract(at, args.out)
  const fields = {
    version: at.version,
    files: wanted.length,
    bytes: size,
    metadataChunks: drive.metadata.downloaded(),
    contentChunks: drive.content.downloaded(),
    contentLength: drive.content.length,
    wireIn: bytes.in,
    wireOut: bytes.out,
    crypto: nativeCrypto() ? 'native libsodium' : 'plain JavaScript',
    node: process.version
  }
  const seconds = (Date.now() - started) / 1000
  finished = true
  if (args.store) await call(drive, 'close')
  end(0, 'done', Object.assign(fields, { seconds }))
}

const call = c.call

function connections () {
  const host = args.host || '127.0.0.1'
  if (!args.listen) return args.port.map(port => net.connect(Number(port), host))
  return new Promise(resolve => {
    const server = net.createServer(socket => resolve([socket])).listen(0, host, () => {
      c.say('listening', { host, port: server.address().port, key: args.key })
    })
  })
}

// What a program would write to see the version as a folder. Types other than file and directory as the bytes they have.
async function extract (drive, out) {
  fs.mkdirSync(out, { recursive: true })
  for (const entry of await c.listing(drive)) {
    const at = path.join(out, entry.path)
    if (entry.directory) {
      fs.mkdirSync(at, { recursive: true, mode: entry.stat.mode & 0o777 })
      continue
    }
    fs.mkdirSync(path.dirname(at), { recursive: true })
    fs.writeFileSync(at, await call(drive, 'readFile', entry.path))
    fs.chmodSync(at, entry.stat.mode & 0o777)
    const seconds = (entry.stat.mtime.getTime() + 0.5) / 1000 // utimes cuts: the thousandths would come out one too low
    fs.utimesSync(at, seconds, seconds)
  }
}

function discard (drive, name) {
  return new Promise((resolve, reject) => {
    let size = 0
    const stream = drive.createReadStream(name)
    stream.on('data', chunk => { size += chunk.length })
    stream.on('error', reject)
    stream.on('end', () => resolve(size))
  })
}

function nativeCrypto () {
  try {
    require('sodium-native')
    return true
  } catch (err) {
    return false
  }
}

main().catch(c.fail)
