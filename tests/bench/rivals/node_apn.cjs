// @parse/node-apn sends many pushes: usage: node node_apn.cjs JSON. Prints how many were taken, the seconds and the processor's seconds.
'use strict';
const apn = require('@parse/node-apn');

const given = JSON.parse(process.argv[2]);
const provider = new apn.Provider({
  address: given.host, port: given.port, ca: given.ca, requestTimeout: 60000,
  token: { key: given.p8, keyId: given.key_id, teamId: given.team_id },
});
const token = number => number.toString(16).padStart(64, '0');
// What it is given beyond this at the same time it reports as failed, though it is delivered.
const AT_ONCE = 1000;
const PARTS = 2;

function note() {
  const note = new apn.Notification();
  Object.assign(note, { topic: given.topic, pushType: 'alert', priority: 5, expiry: given.expiration });
  note.rawPayload = given.payload;
  return note;
}

async function main() {
  await provider.send(note(), token(0));
  let next = 0;
  let taken = 0;
  const began = process.hrtime.bigint();
  const cpu = process.cpuUsage();
  const part = async () => {
    while (next < given.pushes) {
      const from = next;
      next = Math.min(next + AT_ONCE / PARTS, given.pushes);
      const devices = Array.from({ length: next - from }, (_, at) => token(from + at));
      const { sent } = await provider.send(note(), devices);
      taken += sent.length;
    }
  };
  await Promise.all(Array.from({ length: PARTS }, part));
  const seconds = Number(process.hrtime.bigint() - began) / 1e9;
  const spent = process.cpuUsage(cpu);
  console.log(JSON.stringify({ taken, seconds, cpu: (spent.user + spent.system) / 1e6 }));
  await provider.shutdown();
}

main().catch(error => {
  console.error(error);
  process.exit(1);
});
