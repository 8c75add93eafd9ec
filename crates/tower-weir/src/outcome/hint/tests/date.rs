use super::*;
use crate::outcome::hint::date::HttpDate;

const DAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];
const MONTHS: [(&str, u32); 12] = [
    ("Jan", 31),
    ("Feb", 28),
    ("Mar", 31),
    ("Apr", 30),
    ("May", 31),
    ("Jun", 30),
    ("Jul", 31),
    ("Aug", 31),
    ("Sep", 30),
    ("Oct", 31),
    ("Nov", 30),
    ("Dec", 31),
];

fn unix(text: &str, strict: bool, base: i64) -> Option<i64> {
    HttpDate::parse(text.as_bytes(), strict)?.unix(|| base)
}

/// Counts the days one by one, so that it shares no arithmetic with the parser.
#[test]
fn every_day_of_eight_centuries_in_all_forms() {
    let mut days = 0;
    for year in 1970..2770_u32 {
        let leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
        for (month, length) in MONTHS {
            let leap_day = u32::from(leap && month == "Feb");
            for day in 1..=length + leap_day {
                let name = DAYS[((days + 3) % 7) as usize];
                let start = days * 86_400;
                let imf = format!("{}, {day:02} {month} {year} 00:00:00 GMT", &name[..3]);
                assert_eq!(unix(&imf, true, i64::MAX), Some(start), "{imf}");
                let asctime = format!("{} {month} {day:2} 23:59:59 {year}", &name[..3]);
                assert_eq!(
                    unix(&asctime, true, i64::MAX),
                    Some(start + 86_399),
                    "{asctime}"
                );
                let rfc850 = format!("{name}, {day:02}-{month}-{:02} 12:34:56 GMT", year % 100);
                assert_eq!(unix(&rfc850, true, start), Some(start + 45_296), "{rfc850}");
                days += 1;
            }
            let after = format!("Sun, {} {month} {year} 00:00:00 GMT", length + leap_day + 1);
            assert_eq!(unix(&after, false, 0), None, "{after}");
        }
    }
}

#[test]
fn years_of_four_digits_however_far() {
    for (text, expected) in [
        ("Sat, 01 Jan 0000 00:00:00 GMT", -62_167_219_200),
        ("Tue, 29 Feb 0000 00:00:00 GMT", -62_162_121_600),
        ("Mon, 01 Jan 0001 00:00:00 GMT", -62_135_596_800),
        ("Wed, 31 Dec 1969 23:59:59 GMT", -1),
        ("Tue, 29 Feb 2000 00:00:00 GMT", 951_782_400),
        ("Fri, 31 Dec 9999 23:59:60 GMT", 253_402_300_800),
    ] {
        assert_eq!(unix(text, true, 0), Some(expected), "{text}");
        assert_eq!(
            retry_after(text, 0),
            [Some(expected.max(0) as u128 * 1000); 2],
            "{text}"
        );
    }
}

#[test]
fn what_only_lenient_takes_and_what_neither_does() {
    let now = 784_111_770;
    let both = [Some(7_000); 2];
    let lenient = [None, Some(7_000)];
    let neither = [None; 2];
    for (value, expected) in [
        ("Sun, 06 Nov 1994 08:49:37 GMT", both),
        (" \tSun, 06 Nov 1994 08:49:37 GMT \t", both),
        ("Sunday, 06-Nov-94 08:49:37 GMT", both),
        ("Sun Nov  6 08:49:37 1994", both),
        ("Sun Nov 06 08:49:37 1994", both),
        ("Sun, 06 Nov 1994 08:48:97 GMT", neither),
        ("Sun, 6 Nov 1994 08:49:37 GMT", lenient),
        ("Sun,\t06  Nov \t1994 08:49:37   GMT", lenient),
        ("Sun, 06 Nov 1994 08:49:37 UTC", lenient),
        ("Sun, 06 Nov 1994 08:49:37 utc", lenient),
        ("Sun, 06 Nov 1994 08:49:37 +0000", lenient),
        ("SUNDAY, 6-NOV-94 08:49:37 gMT", lenient),
        ("Friday, 06-Nov-94 08:49:37 GMT", lenient),
        ("sun nov 6 08:49:37 1994", lenient),
        ("Fri Nov  6 08:49:37 1994", lenient),
        ("Sun, 06 Nov 1994 08:49:37 GMT, 5", lenient),
        ("5, Sun, 06 Nov 1994 08:49:37 GMT", lenient),
        ("x, Sunday, 06-Nov-94 08:49:37 GMT,", lenient),
        (
            "Sun, 06 Nov 1994 08:49:35 GMT, Sun Nov  6 08:49:37 1994",
            lenient,
        ),
        ("Sun, 06 Nov 1994 08:49:37 -0000", neither),
        ("Sun, 06 Nov 1994 08:49:37 +0100", neither),
        ("Sun, 06 Nov 1994 08:49:37 EST", neither),
        ("Sun, 06 Nov 1994 08:49:37 Z", neither),
        ("Sun, 06 Nov 1994 08:49:37 GMT+1", neither),
        ("Sun, 06 Nov 1994 08:49:37", neither),
        ("Sun, 06 Nov 1994 08:49:37GMT", neither),
        ("Sun,06 Nov 1994 08:49:37 GMT", neither),
        ("Sun, 06Nov 1994 08:49:37 GMT", neither),
        ("Sun 06 Nov 1994 08:49:37 GMT", neither),
        ("06 Nov 1994 08:49:37 GMT", neither),
        ("Foo, 06 Nov 1994 08:49:37 GMT", neither),
        ("Sunday, 06 Nov 1994 08:49:37 GMT", neither),
        ("Sun, 06-Nov-94 08:49:37 GMT", neither),
        ("Sunday, 06-Nov-1994 08:49:37 GMT", neither),
        ("Sun, 06 November 1994 08:49:37 GMT", neither),
        ("Sun, 06 Nov 94 08:49:37 GMT", neither),
        ("Sun, 06 Nov 01994 08:49:37 GMT", neither),
        ("Sun, 006 Nov 1994 08:49:37 GMT", neither),
        ("Sun, 00 Nov 1994 08:49:37 GMT", neither),
        ("Sun, 06 Nov -994 08:49:37 GMT", neither),
        ("Sun, 06 Nov 1994 8:49:37 GMT", neither),
        ("Sun, 06 Nov 1994 08:49 GMT", neither),
        ("Sun, 06 Nov 1994 08:49:37.0 GMT", neither),
        ("Sun, 06 Nov 1994 24:00:00 GMT", neither),
        ("Sun, 06 Nov 1994 23:60:00 GMT", neither),
        ("Sun, 06 Nov 1994 23:59:61 GMT", neither),
        ("Tue, 29 Feb 2019 00:00:00 GMT", neither),
        ("Thu, 29 Feb 1900 00:00:00 GMT", neither),
        ("Mon, 31 Apr 2000 00:00:00 GMT", neither),
        ("Sun Nov  6 08:49:37 1994 GMT", neither),
        ("Sun Nov  6 08:49:37 94", neither),
    ] {
        assert_eq!(retry_after(value, now), expected, "{value}");
    }
}

#[test]
fn second_60_is_the_next_minutes_first_wherever_it_stands() {
    for (value, now) in [
        ("Sun, 06 Nov 1994 08:49:60 GMT", 784_111_799),
        ("Sunday, 06-Nov-94 08:49:60 GMT", 784_111_799),
        ("Sun Nov  6 08:49:60 1994", 784_111_799),
    ] {
        assert_eq!(retry_after(value, now), [Some(1_000); 2], "{value}");
    }
}

/// RFC 9110 5.6.7, at 2026-09-21 14:13:20 by the base's clock.
#[test]
fn a_two_digit_year_is_at_most_fifty_years_ahead() {
    let base = 1_790_000_000;
    for (value, expected) in [
        ("Monday, 21-Sep-76 14:13:20 GMT", Some(3_367_923_200)),
        ("Tuesday, 21-Sep-76 14:13:21 GMT", Some(212_163_201)),
        ("Monday, 21-Sep-26 14:13:20 GMT", Some(base)),
        ("Saturday, 01-Jan-00 00:00:00 GMT", Some(946_684_800)),
        ("Tuesday, 31-Dec-75 23:59:59 GMT", Some(3_345_062_399)),
    ] {
        assert_eq!(unix(value, true, base), expected, "{value}");
    }
    // From 2099 the next `05` is the nearer one, and 2100 has no 29 February.
    let base = 4_070_908_800;
    assert_eq!(
        unix("Thursday, 01-Jan-05 00:00:00 GMT", true, base),
        Some(4_260_211_200)
    );
    assert_eq!(unix("Monday, 29-Feb-00 00:00:00 GMT", false, base), None);
}

fn based(date: &[&str], age: &[&str], retry_after: &str, now: i64) -> Option<u128> {
    let date = date.iter().map(|value| ("date", *value));
    let age = age.iter().map(|value| ("age", *value));
    let headers = headers(date.chain(age).chain([("retry-after", retry_after)]));
    delay_ms(LENIENT.parse(&headers, || at(now)))
}

#[test]
fn a_date_is_counted_from_date_plus_age_whatever_the_local_clock() {
    let date = "Mon, 05 Aug 2019 09:27:00 GMT";
    let target = "Mon, 05 Aug 2019 09:28:00 GMT";
    for now in [0, 1_564_997_220, 4_000_000_000] {
        for (age, expected) in [
            (&[][..], 60_000),
            (&["0"], 60_000),
            (&[" 20 "], 40_000),
            (&["20", "50"], 40_000),
            (&["20, 50"], 40_000),
            (&["61"], 0),
            (&["99999999999999999999"], 0),
            (&["-20"], 60_000),
            (&["20.5"], 60_000),
            (&["garbage"], 60_000),
            (&[""], 60_000),
        ] {
            assert_eq!(based(&[date], age, target, now), Some(expected), "{age:?}");
        }
    }
    // An Age too big is 2^31 seconds, not for ever.
    let far = "Fri, 31 Dec 9999 23:59:59 GMT";
    let left = 253_402_300_799 - (1_564_997_220 + (1_i64 << 31));
    let overflow = based(&[date], &["99999999999999999999"], far, 0);
    assert_eq!(overflow, Some(left as u128 * 1000));
}

#[test]
fn without_a_valid_date_it_is_counted_from_the_local_clock_and_age_means_nothing() {
    let target = "Mon, 05 Aug 2019 09:28:00 GMT";
    for date in [
        "",
        "garbage",
        "1564997220",
        "Mon, 05 Aug 2019 09:27:00 +0200",
    ] {
        assert_eq!(
            based(&[date], &["50"], target, 1_564_997_220),
            Some(60_000),
            "{date}"
        );
    }
    assert_eq!(based(&[], &["50"], target, 1_564_997_220), Some(60_000));
}

#[test]
fn a_date_header_with_a_two_digit_year_needs_the_clock_for_its_century() {
    let date = &["Monday, 05-Aug-19 09:27:00 GMT"];
    let target = "Monday, 05-Aug-19 09:28:00 GMT";
    assert_eq!(based(date, &[], target, 1_564_000_000), Some(60_000));
}

#[test]
fn a_fraction_of_the_local_second_is_rounded_up_to_a_millisecond() {
    let headers = headers([("retry-after", "Thu, 01 Jan 1970 00:00:10 GMT")]);
    for (nanos, expected) in [(0, 1_000), (1, 1_000), (999_999, 1_000), (1_000_000, 999)] {
        let now = at(9) + Duration::from_nanos(nanos);
        assert_eq!(
            delay_ms(LENIENT.parse(&headers, || now)),
            Some(expected),
            "{nanos}"
        );
    }
    let before_1970 = at(0) - Duration::from_nanos(1);
    assert_eq!(
        delay_ms(LENIENT.parse(&headers, || before_1970)),
        Some(10_001)
    );
}

#[test]
fn a_clock_out_of_all_bounds_is_no_harm() {
    for (clock, expected) in [
        (at(i64::MAX), 0),
        (
            at(-1_000_000_000_000),
            253_402_300_799_000 + 62_167_219_200_000,
        ),
    ] {
        let headers = headers([("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT")]);
        assert_eq!(delay_ms(LENIENT.parse(&headers, || clock)), Some(expected));
        let two_digits = super::headers([("retry-after", "Friday, 31-Dec-99 23:59:59 GMT")]);
        assert!(delay_ms(LENIENT.parse(&two_digits, || clock)).is_some());
    }
}

#[test]
fn the_clock_is_asked_only_for_a_date_without_a_date() {
    let date = ("date", "Mon, 05 Aug 2019 09:27:00 GMT");
    for value in ["120", "garbage", "Mon, 05 Aug 2019 09:28:00 GMT"] {
        LENIENT.parse(&headers([date, ("retry-after", value)]), no_clock);
    }
    for value in ["120", "garbage"] {
        LENIENT.parse(&headers([("retry-after", value)]), no_clock);
    }
}
