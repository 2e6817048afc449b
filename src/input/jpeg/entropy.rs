//! The coded data of a scan, walked through without computing a sample: every Huffman code must exist, every block must
//! be there, and nothing may be left before the next marker (ITU-T T.81, annexes F and G).

use super::damaged;
use super::frame::Frame;
use super::tables::{LOOK, Table, Tables};
use crate::error::{Error, Result};

/// A component of a scan: its place in the frame, and the tables that it is read with.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub place: usize,
    pub dc: usize,
    pub ac: usize,
}

/// A scan header; `from` and `to` are the first and the last coefficient.
pub(super) struct Scan {
    pub parts: Vec<Part>,
    pub from: u8,
    pub to: u8,
    /// Bits that earlier scans left to do, or 0 for the first; bits that this one leaves.
    pub high: u8,
    pub low: u8,
}

/// What the scans so far have given of each component.
#[derive(Default)]
pub(super) struct Coverage {
    planes: Vec<Plane>,
    scans: usize,
}

struct Plane {
    /// Blocks per row, with those that only fill up an MCU.
    stride: usize,
    /// Which coefficients are not zero, a bit each: refinements read a bit for each of them. Of progressive files only.
    nonzero: Vec<u64>,
    /// Bits that are still missing of each coefficient; `None` before its first scan.
    missing: [Option<u8>; 64],
}

impl Coverage {
    pub fn new(frame: &Frame) -> Coverage {
        let (across, down) = frame.mcus();
        let plane = |c: &super::frame::Component| {
            let (stride, rows) = ((across * c.h) as usize, (down * c.v) as usize);
            let nonzero = vec![0; if frame.progressive { stride * rows } else { 0 }];
            Plane { stride, nonzero, missing: [None; 64] }
        };
        Coverage { planes: frame.components.iter().map(plane).collect(), scans: 0 }
    }

    /// Error: the picture ends at byte `at` and some of it was never given.
    pub fn complete(&self, at: usize) -> Result<()> {
        if self.planes.iter().any(|p| p.missing.iter().any(|m| *m != Some(0))) {
            return Err(damaged(at, format!("scans are missing: the file ends after {} of them", self.scans)));
        }
        Ok(())
    }

    /// Notes what `scan` gives; what it refines must be there.
    fn add(&mut self, scan: &Scan, at: usize) -> Result<()> {
        self.scans += 1;
        for part in &scan.parts {
            let Some(plane) = self.planes.get_mut(part.place) else { continue };
            for missing in plane.missing.iter_mut().take(usize::from(scan.to) + 1).skip(scan.from.into()) {
                let fits = match *missing {
                    None => scan.high == 0,
                    Some(bits) => bits == scan.high && scan.high == scan.low + 1,
                };
                if !fits {
                    return Err(damaged(at, "a scan that does not follow on from the ones before it"));
                }
                *missing = Some(scan.low);
            }
        }
        Ok(())
    }
}

/// Walks through the coded data of `scan`, which start at byte `at`; the place of the marker after them.
pub(super) fn walk(
    bytes: &[u8],
    at: usize,
    frame: &Frame,
    scan: &Scan,
    tables: &Tables,
    coverage: &mut Coverage,
) -> Result<usize> {
    coverage.add(scan, at)?;
    let number = coverage.scans;
    let mut bits = Bits::new(bytes, at);
    let mut blocks = Blocks { frame, scan, tables, planes: &mut coverage.planes, band: 0 };
    let (across, down) = blocks.mcus();
    let mut row = 0;
    let outcome = blocks.rows(&mut bits, across, down, &mut row).and_then(|()| bits.end());
    outcome.map_err(|trouble| trouble.at(Place { byte: bits.at, scan: number, row, rows: down }))
}

/// Where a scan stands.
struct Place {
    byte: usize,
    scan: usize,
    row: u32,
    rows: u32,
}

/// What is wrong with coded data.
enum Trouble {
    /// They end, or a marker comes, before the picture is complete.
    Short,
    /// A code that no table has, or one that means nothing here.
    Code,
    /// There is something left after the last block.
    Left,
    /// Another marker than the next restart.
    Restart,
    /// A table that was never given.
    Table,
}

impl Trouble {
    fn at(self, place: Place) -> Error {
        let Place { byte, scan, row, rows } = place;
        let why = match self {
            Trouble::Short => format!("its data end in row {} of {rows} blocks of scan {scan}", row + 1),
            Trouble::Code => format!("a code that does not exist, in row {} of {rows} blocks of scan {scan}", row + 1),
            Trouble::Left => format!("data are left over after the last block of scan {scan}"),
            Trouble::Restart => {
                format!("no restart marker where one is due, in row {} of {rows} of scan {scan}", row + 1)
            }
            Trouble::Table => format!("scan {scan} uses a table that the file does not give"),
        };
        damaged(byte, why)
    }
}

/// The blocks of a scan.
struct Blocks<'a> {
    frame: &'a Frame,
    scan: &'a Scan,
    tables: &'a Tables,
    planes: &'a mut [Plane],
    /// Blocks to come whose band ends where it begins.
    band: u32,
}

impl Blocks<'_> {
    /// MCUs of the scan: of a single component, the blocks that have a pixel; else those of the frame.
    fn mcus(&self) -> (u32, u32) {
        let (h, v) = self.frame.max_factors();
        match self.scan.parts.as_slice() {
            [part] => self.frame.components.get(part.place).map_or((0, 0), |c| {
                ((self.frame.width * c.h).div_ceil(8 * h), (self.frame.height * c.v).div_ceil(8 * v))
            }),
            _ => self.frame.mcus(),
        }
    }

    /// All rows of MCUs; `row` is the one that it is at.
    fn rows(&mut self, bits: &mut Bits<'_>, across: u32, down: u32, row: &mut u32) -> Result<(), Trouble> {
        let interval = self.tables.restart;
        let (mut until_restart, mut restarts) = (interval, 0);
        for y in 0..down {
            *row = y;
            for x in 0..across {
                if interval > 0 && until_restart == 0 {
                    bits.restart(restarts)?;
                    (until_restart, restarts) = (interval, (restarts + 1) % 8);
                    self.band = 0;
                }
                until_restart = until_restart.saturating_sub(1);
                self.mcu(bits, x, y)?;
            }
        }
        Ok(())
    }

    fn mcu(&mut self, bits: &mut Bits<'_>, x: u32, y: u32) -> Result<(), Trouble> {
        let scan = self.scan;
        if let [part] = *scan.parts.as_slice() {
            return self.block(bits, part, x, y);
        }
        for &part in &scan.parts {
            let (h, v) = self.frame.components.get(part.place).map_or((0, 0), |c| (c.h, c.v));
            for row in 0..v {
                for column in 0..h {
                    self.block(bits, part, x * h + column, y * v + row)?;
                }
            }
        }
        Ok(())
    }

    fn block(&mut self, bits: &mut Bits<'_>, part: Part, x: u32, y: u32) -> Result<(), Trouble> {
        fn table(tables: &[Option<Table>; 4], at: usize) -> Result<&Table, Trouble> {
            tables.get(at).and_then(Option::as_ref).ok_or(Trouble::Table)
        }
        let (scan, tables) = (self.scan, self.tables);
        if !self.frame.progressive {
            dc_first(bits, table(&tables.dc, part.dc)?)?;
            return ac_sequential(bits, table(&tables.ac, part.ac)?);
        }
        match (scan.from, scan.high) {
            (0, 0) => return dc_first(bits, table(&tables.dc, part.dc)?),
            (0, _) => return bits.take(1).map(drop),
            _ => {}
        }
        let plane = self.planes.get_mut(part.place).ok_or(Trouble::Table)?;
        let at = y as usize * plane.stride + x as usize;
        let nonzero = plane.nonzero.get_mut(at).ok_or(Trouble::Table)?;
        let band = Band { from: scan.from.into(), to: scan.to.into(), ac: table(&tables.ac, part.ac)? };
        match scan.high {
            0 => band.first(bits, nonzero, &mut self.band),
            _ => band.refine(bits, nonzero, &mut self.band),
        }
    }
}

/// The first coefficient's difference (F.2.2.1).
fn dc_first(bits: &mut Bits<'_>, table: &Table) -> Result<(), Trouble> {
    match bits.code(table)? {
        size @ 0..=11 => bits.take(size.into()).map(drop),
        _ => Err(Trouble::Code),
    }
}

/// The other 63 coefficients (F.2.2.2).
fn ac_sequential(bits: &mut Bits<'_>, table: &Table) -> Result<(), Trouble> {
    let mut k = 1;
    while k < 64 {
        let code = bits.code(table)?;
        match (code >> 4, code & 15) {
            (15, 0) => k += 16,
            (_, 0) => break,
            (run, size) => {
                k += u32::from(run);
                if k > 63 {
                    return Err(Trouble::Code);
                }
                bits.take(size.into())?;
                k += 1;
            }
        }
    }
    Ok(())
}

/// Some of the coefficients of progressive blocks.
struct Band<'a> {
    from: u32,
    to: u32,
    ac: &'a Table,
}

impl Band<'_> {
    /// The first scan of a band (G.1.2.2).
    fn first(&self, bits: &mut Bits<'_>, nonzero: &mut u64, run_of_blocks: &mut u32) -> Result<(), Trouble> {
        if *run_of_blocks > 0 {
            *run_of_blocks -= 1;
            return Ok(());
        }
        let mut k = self.from;
        while k <= self.to {
            let code = bits.code(self.ac)?;
            match (code >> 4, code & 15) {
                (15, 0) => k += 16,
                (run, 0) => {
                    *run_of_blocks = (1 << run) - 1 + bits.take(run.into())?;
                    break;
                }
                (run, size) => {
                    k += u32::from(run);
                    if k > self.to {
                        return Err(Trouble::Code);
                    }
                    bits.take(size.into())?;
                    *nonzero |= 1 << k;
                    k += 1;
                }
            }
        }
        Ok(())
    }

    /// One more bit of a band (G.1.2.3).
    fn refine(&self, bits: &mut Bits<'_>, nonzero: &mut u64, run_of_blocks: &mut u32) -> Result<(), Trouble> {
        let mut k = self.from;
        while k <= self.to && *run_of_blocks == 0 {
            let code = bits.code(self.ac)?;
            let (mut zeros, size) = (code >> 4, code & 15);
            match (zeros, size) {
                (15, 0) => {}
                (run, 0) => {
                    *run_of_blocks = (1 << run) + bits.take(run.into())?;
                    break;
                }
                (_, 1) => bits.take(1).map(drop)?,
                _ => return Err(Trouble::Code),
            }
            while k <= self.to {
                if *nonzero >> k & 1 == 1 {
                    bits.take(1)?;
                } else if zeros == 0 {
                    break;
                } else {
                    zeros -= 1;
                }
                k += 1;
            }
            if size == 1 {
                if k > self.to {
                    return Err(Trouble::Code);
                }
                *nonzero |= 1 << k;
            }
            k += 1;
        }
        if *run_of_blocks > 0 {
            let rest = (k..=self.to).filter(|&k| *nonzero >> k & 1 == 1).count();
            (0..rest).try_for_each(|_| bits.take(1).map(drop))?;
            *run_of_blocks -= 1;
        }
        Ok(())
    }
}

/// Bits of coded data, in which a zero follows every byte of ones.
struct Bits<'a> {
    bytes: &'a [u8],
    /// The next byte that is read into `held`.
    at: usize,
    /// Bits that were read and not taken, from the highest on.
    held: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8], at: usize) -> Bits<'a> {
        Bits { bytes, at, held: 0, count: 0 }
    }

    /// Reads ahead, up to a marker or the end of the file.
    fn fill(&mut self) {
        while self.count <= 56 {
            let byte = match (self.bytes.get(self.at), self.bytes.get(self.at + 1)) {
                (Some(0xff), Some(0)) => {
                    self.at += 1;
                    0xff
                }
                (None | Some(0xff), _) => return,
                (Some(&byte), _) => byte,
            };
            self.at += 1;
            self.held |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    fn drop_bits(&mut self, n: u32) -> Result<(), Trouble> {
        self.count = self.count.checked_sub(n).ok_or(Trouble::Short)?;
        self.held <<= n;
        Ok(())
    }

    /// The next `n` bits, 16 at most.
    fn take(&mut self, n: u32) -> Result<u32, Trouble> {
        if self.count < n {
            self.fill();
        }
        let value = (self.held >> 48) as u32 >> (16 - n);
        self.drop_bits(n)?;
        Ok(value)
    }

    /// The value of the next code.
    fn code(&mut self, table: &Table) -> Result<u8, Trouble> {
        if self.count < 16 {
            self.fill();
        }
        let next = (self.held >> 48) as u32;
        let &(length, value) = table.short.get((next >> (16 - LOOK)) as usize).ok_or(Trouble::Code)?;
        if length > 0 {
            self.drop_bits(length.into())?;
            return Ok(value);
        }
        let longer = (LOOK + 1..=16).find(|&l| next < table.long[l as usize].0);
        // Bits that are not there are taken for zeros, which may be no code.
        let length = longer.ok_or(if self.count < 16 { Trouble::Short } else { Trouble::Code })?;
        let place = (next >> (16 - length)) as i32 + table.long[length as usize].1;
        self.drop_bits(length)?;
        usize::try_from(place).ok().and_then(|p| table.values.get(p)).copied().ok_or(Trouble::Code)
    }

    /// The place of the marker that follows the last block, with nothing but the rest of a byte before it.
    fn end(&mut self) -> Result<usize, Trouble> {
        self.fill();
        if self.count >= 8 {
            return Err(Trouble::Left);
        }
        (self.held, self.count) = (0, 0);
        Ok(self.at)
    }

    /// Passes over restart marker `number`.
    fn restart(&mut self, number: u8) -> Result<(), Trouble> {
        let at = self.end()?;
        let rest = self.bytes.get(at..).unwrap_or_default();
        let fill = rest.iter().take_while(|&&b| b == 0xff).count();
        match rest.get(fill) {
            Some(&marker) if fill > 0 && marker == 0xd0 + number => self.at = at + fill + 1,
            None => return Err(Trouble::Short),
            _ => return Err(Trouble::Restart),
        }
        Ok(())
    }
}
