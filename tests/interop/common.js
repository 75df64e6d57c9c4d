'use strict'
// What the scripts share: flags, drives in the three layouts on disk, plans, and bytes that need no file.

const crypto = require('crypto')
const fs = require('fs')
const path = require('path')
const datStorage = require('dat-storage')
const hypercoreCrypto = require('hypercore-crypto')
const hyperdrive = require('hyperdrive')
const raf = require('random-access-file')
const ram = require('random-access-memory')
const RandomAccess = require('random-access-storage')

const FILL_PIECE = 1 << 20 // bytes of one hash state, so that a large file needs no large state
const BATCH = 256 // chunks that get one signature round, for files of more than that

const PAUSE = new Int32Array(new SharedArrayBuffer(4)) // for waits of a few milliseconds

// checkouts of one drive all listen to the same register
require('events').EventEmitter.defaultMaxListeners = 0

exports.say = say
exports.flags = flags
exports.ranges = ranges
exports.call = call
exports.fail = fail
exports.sha256 = sha256
exports.fill = fill
exports.keyPair = keyPair
exports.partPath = partPath
exports.create = create
exports.openFrozen = openFrozen
exports.contentReady = contentReady
exports.applyOperation = applyOperation
exports.listing = listing
exports.describe = describe
exports.readHashed = readHashed

// One JSON object a line on stdout, written before this returns: a kill right after loses nothing.
function say (event, fields) {
  let left = Buffer.from(JSON.stringify(Object.assign({ event }, fields)) + '\n')
  while (left.length) {
    try {
      left = left.slice(fs.writeSync(1, left))
    } catch (err) {
      if (err.code !== 'EAGAIN') throw err
      Atomics.wait(PAUSE, 0, 0, 1) // the pipe is full and whoever reads it needs a moment
    }
  }
}

function fail (err) {
  fs.writeSync(2, `${err.stack || err}\n`)
  process.exit(1)
}

// kinds: {name: 'text' | 'number' | 'switch' | 'list'}
function flags (kinds, usage) {
  const out = { _: [] }
  for (const name of Object.keys(kinds)) if (kinds[name] === 'list') out[name] = []
  const left = process.argv.slice(2)
  const refuse = why => {
    fs.writeSync(2, `${why}\n\n${usage}\n`)
    process.exit(2)
  }
  while (left.length) {
    const word = left.shift()
    if (word === '--help') {
      fs.writeSync(1, usage + '\n')
      process.exit(0)
    }
    if (!word.startsWith('--')) {
      out._.push(word)
      continue
    }
    const name = word.slice(2)
    const kind = kinds[name]
    if (!kind) refuse(`unknown flag ${word}`)
    if (kind === 'switch') {
      out[name] = true
      continue
    }
    if (!left.length) refuse(`${word} needs a value`)
    const value = left.shift()
    if (kind === 'list') out[name].push(value)
    else if (kind === 'text') out[name] = value
    else if (Number.isFinite(Number(value))) out[name] = Number(value)
    else refuse(`${word} needs a number, not ${value}`)
  }
  return out
}

// '0-9,12' -> Set of the numbers meant; 'none' -> empty
function ranges (text) {
  const out = new Set()
  if (text === 'none') return out
  for (const part of text.split(',')) {
    const match = /^(\d+)(?:-(\d+))?$/.exec(part)
    if (!match) throw new Error(`not a range of numbers: ${part}`)
    for (let i = Number(match[1]); i <= Number(match[2] || match[1]); i++) out.add(i)
  }
  return out
}

// A method that takes a callback, as a promise
function call (object, method, ...args) {
  return new Promise((resolve, reject) => {
    object[method](...args, (err, value) => err ? reject(err) : resolve(value))
  })
}

function sha256 (bytes) {
  return crypto.createHash('sha256').update(bytes).digest('hex')
}

// `size` bytes that do not compress, always the same for one label: SHAKE-128 of "label:0", "label:1", ...,
// 1 MiB of each. reference.py has the same.
function fill (label, size) {
  const out = Buffer.alloc(size)
  for (let at = 0; at < size; at += FILL_PIECE) {
    const outputLength = Math.min(FILL_PIECE, size - at)
    crypto.createHash('shake128', { outputLength }).update(`${label}:${at / FILL_PIECE}`).digest().copy(out, at)
  }
  return out
}

function keyPair (seedHex) {
  return hypercoreCrypto.keyPair(seedHex ? Buffer.from(seedHex, 'hex') : undefined)
}

// ---- layouts: raf    DIR/metadata/tree      what hyperdrive makes of a folder name
//               sleep  DIR/.dat/metadata.tree with content.data beside it
//               dat    the same without content.data: the content is the files of DIR themselves

function partPath (dir, layout, register, part) {
  if (layout === 'raf') return path.join(dir, register, part)
  if (layout === 'bare') return path.join(dir, `${register}.${part}`)
  return path.join(dir, '.dat', `${register}.${part}`)
}

function layoutOf (dir) {
  for (const layout of ['raf', 'sleep', 'bare']) {
    if (!fs.existsSync(partPath(dir, layout, 'metadata', 'key'))) continue
    return layout === 'sleep' && !fs.existsSync(partPath(dir, layout, 'content', 'data')) ? 'dat' : layout
  }
  throw new Error(`${dir} is not a drive: no metadata key found`)
}

function create (dir, layout, seedHex) {
  const pair = keyPair(seedHex)
  const opts = { secretKey: pair.secretKey, latest: layout === 'dat' }
  fs.mkdirSync(dir, { recursive: true })
  if (layout === 'raf') return hyperdrive(dir, pair.publicKey, opts)
  if (layout === 'dat') {
    return hyperdrive(datStorage(dir, { secretDir: path.join(dir, '.dat', 'secret_keys') }), pair.publicKey, opts)
  }
  const storage = register => name => raf(partPath(dir, layout, register, name))
  return hyperdrive({ metadata: storage('metadata'), content: storage('content') }, pair.publicKey, opts)
}

// The bytes of a file, never written to: what is appended is kept in memory behind them.
function frozen (file) {
  const extra = ram()
  let fd = -1
  let base = 0
  return new RandomAccess({
    open (req) {
      fs.open(file, 'r', (err, opened) => {
        if (err) return req.callback(err)
        fd = opened
        base = fs.fstatSync(fd).size
        req.callback(null)
      })
    },
    read (req) {
      if (req.offset >= base) return extra.read(req.offset - base, req.size, (err, bytes) => req.callback(err, bytes))
      const bytes = Buffer.alloc(req.size)
      const here = Math.min(req.size, base - req.offset)
      fs.read(fd, bytes, 0, here, req.offset, (err, n) => {
        if (err || n < here) return req.callback(err || new Error(`${file} is shorter than its register`))
        if (here === req.size) return req.callback(null, bytes)
        extra.read(0, req.size - here, (err, rest) => {
          if (err) return req.callback(err)
          rest.copy(bytes, here)
          req.callback(null, bytes)
        })
      })
    },
    write (req) {
      if (req.offset < base) return req.callback(new Error(`${file} is not to be changed`))
      extra.write(req.offset - base, req.data, err => req.callback(err))
    },
    close (req) {
      if (fd < 0) return req.callback(null)
      fs.close(fd, err => req.callback(err))
    }
  })
}

// Opens a drive of any layout; nothing on disk is changed. (The reference writes headers whenever it opens.)
async function openFrozen (dir, opts) {
  const layout = layoutOf(dir)
  const storage = register => (name, _, drive) => {
    const file = partPath(dir, layout, register, name)
    if (name === 'data') {
      if (layout === 'dat' && register === 'content') {
        return datStorage(relative => frozen(path.join(dir, relative))).content('data', _, drive)
      }
      return fs.existsSync(file) ? frozen(file) : ram()
    }
    return fs.existsSync(file) ? ram(fs.readFileSync(file)) : ram()
  }
  const drive = hyperdrive({ metadata: storage('metadata'), content: storage('content') }, null,
    Object.assign({ latest: layout === 'dat', createIfMissing: false }, opts))
  drive.layout = layout
  await call(drive, 'ready')
  return drive
}

function contentReady (drive) {
  return call(drive, '_ensureContent')
}

// ---- plans: {op: 'put', path, text | base64 | size [+ fill], mode, uid, gid, mtime, ctime, chunk}
//             {op: 'mkdir', path, mode, mtime}   {op: 'del', path}

function bytesOf (op) {
  if (op.text !== undefined) return Buffer.from(op.text)
  if (op.base64 !== undefined) return Buffer.from(op.base64, 'base64')
  return fill(op.fill === undefined ? op.path : op.fill, op.size || 0)
}

// clock: milliseconds that stand in the entry when the operation has no time of its own
async function applyOperation (drive, op, clock) {
  const mtime = op.mtime === undefined ? clock : op.mtime
  const stat = { mode: op.mode, uid: op.uid, gid: op.gid, mtime, ctime: op.ctime === undefined ? mtime : op.ctime }
  if (op.op === 'mkdir') return call(drive, 'mkdir', op.path, stat)
  if (op.op === 'del') return call(drive, 'unlink', op.path)
  if (op.op !== 'put') throw new Error(`unknown operation ${op.op}`)

  const bytes = bytesOf(op)
  const chunks = []
  for (let at = 0, step = op.chunk || 65536; at < bytes.length; at += step) chunks.push(bytes.slice(at, at + step))
  if (chunks.length > BATCH && !drive.latest) return putLarge(drive, op.path, bytes.length, chunks, stat)
  const stream = drive.createWriteStream(op.path, stat)
  await new Promise((resolve, reject) => {
    stream.on('error', reject)
    stream.on('finish', resolve)
    for (const chunk of chunks) stream.write(chunk)
    stream.end()
  })
}

// As createWriteStream does it, with one signature for BATCH chunks: signing dominates otherwise.
async function putLarge (drive, name, size, chunks, stat) {
  const place = { offset: drive.content.length, byteOffset: drive.content.byteLength }
  for (let at = 0; at < chunks.length; at += BATCH) await call(drive.content, 'append', chunks.slice(at, at + BATCH))
  const mode = (stat.mode || 0o644) | 0o100000
  const owner = { uid: stat.uid || 0, gid: stat.gid || 0 }
  await call(drive.tree, 'put', name, Object.assign({}, stat, owner, place, { mode, size, blocks: chunks.length }))
}

// ---- looking at drives

// Every path below `dir`, sorted: {path, directory, stat}
async function listing (drive, dir) {
  const out = []
  const visit = async at => {
    for (const name of await call(drive, 'readdir', at)) {
      const child = path.posix.join(at, name)
      const stat = await call(drive, 'lstat', child)
      const below = await call(drive, 'readdir', child).catch(() => [])
      const directory = below.length > 0 || stat.isDirectory()
      out.push({ path: child, directory, stat })
      if (below.length) await visit(child)
    }
  }
  await visit(dir || '/')
  return out.sort((a, b) => a.path < b.path ? -1 : 1)
}

function readHashed (drive, name) {
  return new Promise((resolve, reject) => {
    const hash = crypto.createHash('sha256')
    let size = 0
    const stream = drive.createReadStream(name)
    stream.on('data', bytes => {
      hash.update(bytes)
      size += bytes.length
    })
    stream.on('error', reject)
    stream.on('end', () => resolve({ path: name, size, sha256: hash.digest('hex') }))
  })
}

function describe (drive) {
  return {
    key: drive.key.toString('hex'),
    discoveryKey: drive.discoveryKey.toString('hex'),
    contentKey: drive.content.key.toString('hex'),
    version: drive.version,
    metadataLength: drive.metadata.length,
    contentLength: drive.content.length,
    contentBytes: drive.content.byteLength
  }
}
