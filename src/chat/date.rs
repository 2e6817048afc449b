//! Dates in chat templates: `strftime_now`, at a time that the caller gives.

use std::fmt::Write;

use crate::error::{Error, Result};

const SECONDS_A_DAY: i64 = 86_400;
/// The first second of year 1 and of year 10000, which Python's dates do not go beyond.
const YEARS: std::ops::Range<i64> = -62_135_596_800..253_402_300_800;
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A point in time that templates take for now. Its dates are in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    year: i64,
    /// 0 is January.
    month: usize,
    day: i64,
    /// 0 is January 1st.
    day_of_year: i64,
    /// 0 is Sunday.
    weekday: i64,
    second_of_day: i64,
}

impl Moment {
    /// The time `seconds` after 1970-01-01 00:00:00 UTC, within the years 1 to 9999.
    ///
    /// Errors: another year ([`crate::ErrorKind::Usage`]).
    pub fn from_unix_seconds(seconds: i64) -> Result<Moment> {
        if !YEARS.contains(&seconds) {
            return Err(Error::usage(format!("a time {seconds} s after 1970: its year is not within 1 to 9999"))
                .hint("check this machine's clock"));
        }
        let days = seconds.div_euclid(SECONDS_A_DAY);
        // Days since 0000-03-01, so that a leap day is the last of its year.
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * from_march + 2) / 153;
        let month = (shifted_month + 2) % 12;
        let year = year_of_era + era * 400 + i64::from(month < 2);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let since_march = if leap { 60 } else { 59 };
        Ok(Moment {
            year,
            month: month as usize,
            day: from_march - (153 * shifted_month + 2) / 5 + 1,
            day_of_year: if month < 2 { from_march - 306 } else { from_march + since_march },
            weekday: (days + 4).rem_euclid(7),
            second_of_day: seconds.rem_euclid(SECONDS_A_DAY),
        })
    }

    /// The date as Python's `strftime(format)` writes it in English, for a date without a time zone. `%-d`
    /// and the like leave leading zeros out.
    ///
    /// Errors ([`crate::ErrorKind::BadData`]): a directive that is not known.
    pub fn strftime(&self, format: &str) -> Result<String> {
        let mut out = String::with_capacity(format.len() * 2);
        let mut rest = format.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let (flag, directive) = match rest.next() {
                Some(flag @ ('-' | '_' | '0')) => (Some(flag), rest.next()),
                directive => (None, directive),
            };
            let written = directive.and_then(|d| self.directive(&mut out, flag, d));
            written.ok_or_else(|| {
                let shown: String = ['%'].into_iter().chain(flag).chain(directive).collect();
                Error::bad_data(format!("the date directive {shown:?} is not known"))
                    .hint("use those of Python's strftime, such as %d %b %Y %H:%M")
            })?;
        }
        Ok(out)
    }

    /// Writes one directive; nothing if it is not known.
    fn directive(&self, out: &mut String, flag: Option<char>, directive: char) -> Option<()> {
        let (hour, minute, second) = (self.second_of_day / 3600, self.second_of_day / 60 % 60, self.second_of_day % 60);
        let (day_name, month_name) = (DAYS[self.weekday as usize], MONTHS[self.month]);
        let hour_of_12 = (hour + 11) % 12 + 1;
        let (iso_year, iso_week) = self.iso_week();
        let number: (i32, i64) = match directive {
            'd' => (2, self.day),
            'e' => (-2, self.day),
            'm' => (2, self.month as i64 + 1),
            'y' => (2, self.year % 100),
            'Y' => (0, self.year),
            'C' => (2, self.year / 100),
            'g' => (2, iso_year % 100),
            'G' => (0, iso_year),
            'H' => (2, hour),
            'I' => (2, hour_of_12),
            'M' => (2, minute),
            'S' => (2, second),
            'j' => (3, self.day_of_year + 1),
            'u' => (0, (self.weekday + 6) % 7 + 1),
            'w' => (0, self.weekday),
            'U' => (2, (self.day_of_year + 7 - self.weekday) / 7),
            'W' => (2, (self.day_of_year + 7 - (self.weekday + 6) % 7) / 7),
            'V' => (2, iso_week),
            _ => {
                let whole = match directive {
                    'c' => Some("%a %b %e %H:%M:%S %Y"),
                    'D' | 'x' => Some("%m/%d/%y"),
                    'F' => Some("%Y-%m-%d"),
                    'T' | 'X' => Some("%H:%M:%S"),
                    'R' => Some("%H:%M"),
                    _ => None,
                };
                if let Some(whole) = whole {
                    out.push_str(&self.strftime(whole).ok()?);
                    return Some(());
                }
                out.push_str(match directive {
                    'a' => &day_name[..3],
                    'A' => day_name,
                    'b' | 'h' => &month_name[..3],
                    'B' => month_name,
                    'p' => ["AM", "PM"][usize::from(hour >= 12)],
                    'f' => "000000",
                    'n' => "\n",
                    't' => "\t",
                    'Z' | 'z' => "",
                    '%' => "%",
                    _ => return None,
                });
                return Some(());
            }
        };
        let written = match (flag, number) {
            (Some('-'), (_, value)) => write!(out, "{value}"),
            (Some('_'), (width, value)) | (None, (width @ ..0, value)) => {
                write!(out, "{value:width$}", width = width.unsigned_abs() as usize)
            }
            (_, (width, value)) => write!(out, "{value:0width$}", width = i32::abs(width) as usize),
        };
        written.ok()
    }

    /// Year and week of ISO 8601: weeks start on Monday, and the first one holds January 4th.
    fn iso_week(&self) -> (i64, i64) {
        let monday = (self.weekday + 6) % 7;
        let week = (self.day_of_year - monday + 10) / 7;
        if week < 1 {
            return (self.year - 1, weeks(self.year - 1));
        }
        if week > weeks(self.year) { (self.year + 1, 1) } else { (self.year, week) }
    }
}

/// Weeks of the year by ISO 8601.
fn weeks(year: i64) -> i64 {
    let last_weekday = |y: i64| (y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400)).rem_euclid(7);
    if last_weekday(year) == 4 || last_weekday(year - 1) == 3 { 53 } else { 52 }
}
