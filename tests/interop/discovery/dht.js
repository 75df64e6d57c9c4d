'use strict'
// node dht.js HOST PORT COUNT: COUNT nodes of the mainline DHT on PORT and the ports after it, all of which know the
// first one and nothing else. Prints a line when all of them listen, and one for each announcement.
const DHT = require('bittorrent-dht')
const [host, port, count] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])]
let missing = count
for (let i = 0; i < count; i++) {
  const node = new DHT({ bootstrap: i === 0 ? false : [`${host}:${port}`] })
  node.on('announce', (peer, hash) => console.log('announce', peer.host, peer.port, hash.toString('hex')))
  node.listen(port + i, () => { if (--missing === 0) console.log('listening') })
}
