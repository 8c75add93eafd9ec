use super::{number::digits, scan::Scan};

const WEEKDAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

const DAYS: [i64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

const DAY_SECONDS: i64 = 24 * 60 * 60;

/// An HTTP-date as it was written. What a two-digit year stands for, and with
/// it whether such a day exists, depends on when the date is read.
#[derive(Clone, Copy)]
pub(super) struct HttpDate {
    strict: bool,
    /// 0 is Monday.
    weekday: usize,
    year: Year,
    /// 0 is January.
    month: usize,
    day: i64,
    /// Up to 86,400: a leap second is the first second of the next day.
    second: i64,
}

#[derive(Clone, Copy)]
enum Year {
    Full(i64),
    TwoDigits(i64),
}

impl HttpDate {
    /// Reads one of the three forms of RFC 9110 5.6.7. `strict` takes the
    /// grammar as it is written; otherwise case does not matter, whitespace may
    /// be longer (as an unfolded line leaves it), a day may have one digit, the
    /// zone may be called `UTC` or `+0000`, and the day-name need not be right.
    pub(super) fn parse(text: &[u8], strict: bool) -> Option<Self> {
        let mut scan = Reader {
            scan: Scan::new(text),
            strict,
        };
        let date = scan.date()?;
        scan.scan.end()?;
        Some(date)
    }

    /// Seconds since 1970, when `base` (the same) is about now; `None` if there
    /// is no such day, or if `strict` and its name is another.
    pub(super) fn unix(self, base: impl FnOnce() -> i64) -> Option<i64> {
        let year = match self.year {
            Year::Full(year) => year,
            Year::TwoDigits(year) => self.in_century(year, base()),
        };
        let leap_day = i64::from(self.month == 1 && is_leap(year));
        if self.day < 1 || self.day > DAYS[self.month] + leap_day {
            return None;
        }
        let unix = self.in_year(year);
        let weekday = (self.days(year) + 3).rem_euclid(7);
        if self.strict && weekday != self.weekday as i64 {
            return None;
        }
        Some(unix)
    }

    /// RFC 9110 5.6.7: the last year with these digits that puts the date at
    /// most 50 years after `base`.
    fn in_century(self, two_digits: i64, base: i64) -> i64 {
        let about = 1970 + base.div_euclid(365 * DAY_SECONDS);
        let mut year = (about.div_euclid(100) + 1) * 100 + two_digits;
        while self.in_year(year - 50) > base {
            year -= 100;
        }
        year
    }

    fn in_year(self, year: i64) -> i64 {
        self.days(year) * DAY_SECONDS + self.second
    }

    /// Days since 1970-01-01, in the Gregorian calendar however early.
    fn days(self, year: i64) -> i64 {
        let until_year = |year: i64| {
            let before = year - 1;
            365 * year + before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400)
        };
        let leap_day = i64::from(self.month > 1 && is_leap(year));
        until_year(year) - until_year(1970)
            + DAYS[..self.month].iter().sum::<i64>()
            + leap_day
            + self.day
            - 1
    }
}

const fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

struct Reader<'a> {
    scan: Scan<'a>,
    strict: bool,
}

impl Reader<'_> {
    fn date(&mut self) -> Option<HttpDate> {
        if let Some(weekday) = self.name(WEEKDAYS) {
            self.scan.eat(b',')?;
            self.space()?;
            let day = self.day()?;
            self.scan.eat(b'-')?;
            let month = self.name(MONTHS)?;
            self.scan.eat(b'-')?;
            let year = Year::TwoDigits(self.number(2, 2)?);
            let second = self.time()?;
            self.zone()?;
            return Some(self.made(weekday, year, month, day, second));
        }
        let weekday = self.name(WEEKDAYS.map(|name| &name[..3]))?;
        if self.scan.eat(b',').is_some() {
            self.space()?;
            let day = self.day()?;
            self.space()?;
            let month = self.name(MONTHS)?;
            self.space()?;
            let year = Year::Full(self.number(4, 4)?);
            let second = self.time()?;
            self.zone()?;
            return Some(self.made(weekday, year, month, day, second));
        }
        // asctime() pads the day with a space, and names no zone.
        self.space()?;
        let month = self.name(MONTHS)?;
        self.space()?;
        let day = if self.strict && self.scan.eat(b' ').is_some() {
            self.number(1, 1)?
        } else {
            self.day()?
        };
        let second = self.time()?;
        self.space()?;
        let year = Year::Full(self.number(4, 4)?);
        Some(self.made(weekday, year, month, day, second))
    }

    const fn made(
        &self,
        weekday: usize,
        year: Year,
        month: usize,
        day: i64,
        second: i64,
    ) -> HttpDate {
        HttpDate {
            strict: self.strict,
            weekday,
            year,
            month,
            day,
            second,
        }
    }

    fn name<const N: usize>(&mut self, names: [&str; N]) -> Option<usize> {
        let any_case = !self.strict;
        names
            .iter()
            .position(|name| self.scan.word(name, any_case).is_some())
    }

    fn space(&mut self) -> Option<()> {
        if self.strict {
            return self.scan.eat(b' ');
        }
        let spaces = self.scan.take_while(|byte| matches!(byte, b' ' | b'\t'));
        (!spaces.is_empty()).then_some(())
    }

    fn number(&mut self, least: usize, most: usize) -> Option<i64> {
        let text = self.scan.take_while(|byte| byte.is_ascii_digit());
        if text.len() < least || text.len() > most {
            return None;
        }
        i64::try_from(digits(text)?).ok()
    }

    fn day(&mut self) -> Option<i64> {
        self.number(if self.strict { 2 } else { 1 }, 2)
    }

    /// The space before a time, and the time. Second 60 is taken in every
    /// minute, as the grammar does.
    fn time(&mut self) -> Option<i64> {
        self.space()?;
        let hour = self.number(2, 2)?;
        self.scan.eat(b':')?;
        let minute = self.number(2, 2)?;
        self.scan.eat(b':')?;
        let second = self.number(2, 2)?;
        (hour < 24 && minute < 60 && second <= 60).then_some((hour * 60 + minute) * 60 + second)
    }

    /// The space before a zone, and the zone. A zone other than UTC is refused:
    /// RFC 9110 knows none, so what it means could only be guessed.
    fn zone(&mut self) -> Option<()> {
        self.space()?;
        if self.strict {
            return self.scan.word("GMT", false);
        }
        self.name(["GMT", "UTC", "+0000"]).map(drop)
    }
}
