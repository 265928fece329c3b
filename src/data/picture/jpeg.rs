//! A JPEG's markers: where the picture ends, whatever lies behind it, and whether all of it is there.

/// Bytes that are no marker and no end of one.
const FILLER: [u8; 64] = [0x35; 64];

/// The JPEG at the start of `bytes`, up to and with its own end marker. What phones put behind it (the film
/// of a motion photo, a second picture) is not looked at. `None` if it has no end or lacks scans.
pub(super) fn own_part(bytes: &[u8]) -> Option<&[u8]> {
    let mut scans = Scans::default();
    let mut at = 2;
    loop {
        at += bytes.get(at..)?.iter().position(|b| *b == 0xff)?;
        match *bytes.get(at + 1)? {
            // bytes that fill up
            0xff => at += 1,
            0xd9 => return scans.complete().then(|| &bytes[..at + 2]),
            // a byte of a scan that looks like a marker, restarts of one, and others without contents
            0x00 | 0x01 | 0xd0..=0xd7 => at += 2,
            // the start of another picture, and what no picture has: this one was cut off before
            0x02..=0xbf | 0xd8 => return None,
            marker => {
                let length = bytes.get(at + 2..at + 4)?;
                let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
                let body = bytes.get(at + 4..at + 2 + length.max(2))?;
                match marker {
                    0xc4 | 0xc8 | 0xcc => {}
                    0xc0..=0xcf => scans.start(body)?,
                    0xda => scans.add(body)?,
                    _ => {}
                }
                at += 2 + length.max(2);
            }
        }
    }
}

/// The same JPEG, if it is whole, with more bytes in front of its end marker. A decoder fills up what is
/// missing with what comes next, so they change a picture that was cut off, and no other.
pub(super) fn with_more(bytes: &[u8]) -> Vec<u8> {
    let (mut data, end) = bytes.split_at(bytes.len() - 2);
    while let [rest @ .., 0xff] = data {
        data = rest;
    }
    [data, &FILLER, end].concat()
}

/// What the scans so far tell.
#[derive(Default)]
struct Scans {
    /// The components' ids, and of each of their coefficients how many bits are still to come.
    missing: Vec<(u8, [u8; 64])>,
}

/// Of coefficients that no scan had: a progressive JPEG may leave them out, but for the first.
const UNSEEN: u8 = u8::MAX;

impl Scans {
    /// A frame's header, of which a picture has one: six bytes of sizes and of the components' number, then
    /// three for each of them.
    fn start(&mut self, header: &[u8]) -> Option<()> {
        let components = header.get(6..)?.chunks_exact(3);
        let first = self.missing.is_empty();
        self.missing = components.map(|c| (c[0], [UNSEEN; 64])).collect();
        first.then_some(())
    }

    /// A scan's header: the components, which coefficients, and to which bit. `None` if it is none.
    fn add(&mut self, header: &[u8]) -> Option<()> {
        let count = usize::from(*header.first()?);
        let ids = header.get(1..1 + 2 * count)?;
        let &[first, last, bits] = header.get(1 + 2 * count..)?.first_chunk()?;
        for id in ids.iter().step_by(2) {
            for (_, missing) in self.missing.iter_mut().filter(|(own, _)| own == id) {
                let range = usize::from(first)..=usize::from(last.min(63));
                missing.get_mut(range)?.fill(bits & 15);
            }
        }
        Some(())
    }

    fn complete(&self) -> bool {
        let whole = |missing: &[u8; 64]| {
            missing[0] == 0 && missing.iter().all(|bits| matches!(*bits, 0 | UNSEEN))
        };
        self.missing.iter().all(|(_, missing)| whole(missing))
    }
}
