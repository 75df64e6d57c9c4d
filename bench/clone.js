// node clone.js KEY PORT FOLDER: clones a drive into a folder as dat 13 does, from a peer on this machine.
'use strict'
const net = require('net')
const path = require('path')
const packages = path.join(__dirname, '..', 'tests', 'interop', 'discovery', 'node_modules')
const pump = require(path.join(packages, 'pump'))

require(path.join(packages, 'dat-node'))(process.argv[4], { key: process.argv[2], latest: true }, (err, dat) => {
  if (err) throw err
  const archive = dat.archive
  // The options of dat-node's join; looking for peers is left out.
  const stream = archive.replicate({ upload: true, download: true, live: true })
  const socket = net.connect(Number(process.argv[3]), '127.0.0.1')
  pump(socket, stream, socket, err => { throw err || new Error('the peer closed the connection') })
  archive.on('sync', () => {
    if (!archive.version) return
    console.log(archive.version)
    process.exit(0)
  })
})
