//! Which file is mapped where, read without the allocator: for a signal handler.

/// Room for a line of `/proc/self/maps`: a path of `PATH_MAX`, and what stands before it.
pub const LONGEST: usize = 4096 + 128;

/// A line that is read piece by piece.
pub struct Line {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Line {
    pub fn new() -> Line {
        Line { bytes: [0; LONGEST], length: 0 }
    }

    /// Takes in a byte. At the end of a line: the file that is mapped at `address`, if the line is about it.
    pub fn take(&mut self, byte: u8, address: usize) -> Option<&[u8]> {
        if byte != b'\n' {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = byte;
                self.length = self.length.saturating_add(1);
            }
            return None;
        }
        let length = std::mem::take(&mut self.length);
        file_of(self.bytes.get(..length)?, address)
    }
}

/// The path in a line of `proc_pid_maps(5)` whose range holds `address`.
fn file_of(line: &[u8], address: usize) -> Option<&[u8]> {
    let dash = line.iter().position(|b| *b == b'-')?;
    let space = line.iter().position(|b| *b == b' ')?;
    let (from, to) = (hex(line.get(..dash)?)?, hex(line.get(dash.saturating_add(1)..space)?)?);
    let path = line.iter().position(|b| *b == b'/').and_then(|at| line.get(at..));
    path.filter(|_| (from..to).contains(&address))
}

fn hex(digits: &[u8]) -> Option<usize> {
    let digit = |sum: usize, b: &u8| {
        let value = char::from(*b).to_digit(16)? as usize;
        sum.checked_mul(16)?.checked_add(value)
    };
    digits.iter().try_fold(0, digit).filter(|_| !digits.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(maps: &str, address: usize) -> Option<String> {
        let mut line = Line::new();
        for byte in maps.bytes() {
            if let Some(file) = line.take(byte, address) {
                return Some(String::from_utf8(file.to_vec()).unwrap());
            }
        }
        None
    }

    #[test]
    fn the_file_under_an_address_is_found() {
        let maps = "55d0-5600 r-xp 00000000 fe:01 12 /usr/bin/acclimate\n7f00-7f10 rw-p 00000000 00:00 0 \n\
                    7f10-7f30 r--p 00001000 b3:02 99                         /media/big disk/home/base.onnx (deleted)\n\
                    7ffe-7fff rw-p 00000000 00:00 0                          [stack]\n";
        assert_eq!(found(maps, 0x55d0).as_deref(), Some("/usr/bin/acclimate"));
        assert_eq!(found(maps, 0x7f2f).as_deref(), Some("/media/big disk/home/base.onnx (deleted)"));
        for nothing in [0x7f00, 0x7f30, 0x7ffe, 0] {
            assert_eq!(found(maps, nothing), None, "{nothing:x}");
        }
        for odd in ["\n", "-\n", "xy-z \n", "1-2\n", &format!("10-20 {}\n", "x".repeat(2 * LONGEST))] {
            assert_eq!(found(odd, 0x11), None);
        }
        let long = format!("10-20 r /{}\n30-40 r /b\n", "x".repeat(2 * LONGEST));
        assert_eq!(found(&long, 0x11).map(|path| path.len()), Some(LONGEST - "10-20 r ".len()));
        assert_eq!(found(&long, 0x31).as_deref(), Some("/b"), "a line that is cut off ends where the line ends");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_program_is_found_in_the_maps_of_the_system() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let function = found as fn(&str, usize) -> Option<String>;
        let program = std::env::current_exe().unwrap();
        assert_eq!(found(&maps, function as usize).as_deref(), program.to_str());
    }
}
