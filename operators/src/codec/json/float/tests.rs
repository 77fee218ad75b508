//! Numbers against the standard library, to the bit.

use proptest::prelude::*;

use super::*;

/// The bits of the number that `text` is, which have to be the same wherever it stands.
fn read_everywhere(text: &str) -> Option<u32> {
    let long = ",0.25, 1.5,-7,12.75,1e3, -0.123456789,0.1,0.2,0.3]}";
    let places = [
        ("", "]"),
        ("", "]    "),
        ("", " ]}"),
        ("", " , 1]"),
        ("1,", ""),
        ("0.5, ", "]"),
        ("", long),
        ("0.1,2, ", long),
    ];
    let read = places.map(|(before, after)| {
        let mut values = Vec::new();
        let array = format!("{before}{text}{after}");
        let (end, finite) = read_all(array.as_bytes(), 0, &mut values).ok()?;
        // Anything but a number ends the array too early.
        if array.rfind(']').unwrap_or(array.len()) != end {
            return None;
        }
        assert_eq!(finite, values.iter().all(|value| value.is_finite()), "{array}");
        Some(values[before.matches(',').count()].to_bits())
    });
    assert!(read.iter().all(|bits| *bits == read[0]), "{text}: {read:?}");
    read[0]
}

#[expect(clippy::cast_possible_truncation, reason = "as the reader does it")]
fn expected(text: &str) -> Option<u32> {
    Some((text.parse::<f64>().ok()? as f32).to_bits())
}

proptest! {
    #[test]
    fn what_is_halfway_between_two_floats_is_rounded_exactly(
        bits in 0..f32::MAX.to_bits() - 1,
        digits in 8..30_usize,
        nudge in -6..=6_i64,
    ) {
        let (low, high) = (f64::from(f32::from_bits(bits)), f64::from(f32::from_bits(bits + 1)));
        let near = f64::from_bits((f64::midpoint(low, high).to_bits().cast_signed() + nudge).cast_unsigned());
        for text in [format!("{near:.digits$e}"), format!("{near:?}"), format!("{near:.digits$}")] {
            prop_assert_eq!(read_everywhere(&text), expected(&text), "{}", text);
        }
    }

    #[test]
    fn many_digits_are_rounded_exactly(text in "-?[1-9][0-9]{12,24}(\\.[0-9]{1,9})?(e-?[0-9]{1,2})?") {
        prop_assert_eq!(read_everywhere(&text), expected(&text));
    }

    #[test]
    fn hundreds_of_digits_are_rounded_exactly(text in "(0|[1-9][0-9]{0,400})\\.[0-9]{380,420}(E[+-][0-9]{1,3})?") {
        prop_assert_eq!(read_everywhere(&text), expected(&text));
    }

    #[test]
    fn what_is_read_is_what_is_passed_over(text in "[-+.eE0-9]{0,12}") {
        let read = read(text.as_bytes(), 0).map(|(_, end)| end);
        prop_assert_eq!(&read, &skip(text.as_bytes(), 0));
        prop_assert_eq!(read_everywhere(&text).is_some(), read == Ok(text.len()));
    }

    #[test]
    fn eight_characters_are_read_only_if_all_are_digits(characters: [u8; 8], digits in 0..=8_usize, count in 1..=8_usize) {
        let mut window = [0xff; WINDOW];
        window[3..11].copy_from_slice(&characters);
        window[3..3 + digits].iter_mut().for_each(|character| *character = b'0' + *character % 10);
        let text = &window[3..3 + count];
        let number = text.iter().try_fold(0, |number, digit| {
            digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0'))
        });
        prop_assert_eq!(spell(word(&window, 3), count), number);
    }

    #[test]
    fn short_numbers_are_read_to_the_bit(text in "-?[0-9]\\.[0-9]{1,6}") {
        prop_assert_eq!(read_everywhere(&text), expected(&text));
        let mut window = [b'9'; WINDOW];
        window[..text.len()].copy_from_slice(text.as_bytes());
        window[text.len()] = b',';
        let read = read_word(&window).map(|(value, length)| (value.to_bits(), length));
        prop_assert_eq!(read, (text.len() < 8).then(|| (expected(&text).unwrap(), text.len())));
    }

    #[test]
    fn what_eight_bytes_say_the_window_says_too(start in "[-.0-9, ]{8}", rest: [u8; 24]) {
        let mut window = [0; WINDOW];
        window[..8].copy_from_slice(start.as_bytes());
        window[8..].copy_from_slice(&rest);
        let bits = |read: Option<(f32, usize)>| read.map(|(value, length)| (value.to_bits(), length));
        if let Some(read) = bits(read_word(&window)) {
            prop_assert_eq!(Some(read), bits(read_window(&window)));
        }
    }

    #[test]
    fn the_first_comma_is_found(window: [u8; WINDOW], commas in prop::collection::vec(0..WINDOW, 0..3)) {
        let mut window = window;
        commas.into_iter().for_each(|place| window[place] = b',');
        let first = window.iter().position(|byte| *byte == b',').filter(|place| *place < 24);
        prop_assert_eq!(find_comma(&window), first);
    }
}

#[test]
fn the_sign_of_zero_is_kept() {
    for text in ["0", "-0", "-0.0", "-0e5", "-0.00000000000000000000000000000", "1e-400", "-1e-400"] {
        assert_eq!(read_everywhere(text), expected(text), "{text}");
    }
}

#[test]
fn the_ends_of_the_range_are_rounded_exactly() {
    let texts = [
        "1.401298464324817e-45",
        "7.006492321624085e-46",
        "7.006492321624086e-46",
        "1.1754943508222875e-38",
        "3.4028235677973366e38",
        "3.4028235677973367e38",
        "340282356779733661637539395458142568448",
        "1.7976931348623157e308",
        "1.7976931348623159e308",
        "9007199254740992",
        "9007199254740993",
        "9999999999999999999",
        "10000000000000000000",
        "18446744073709551615",
        "0.9999999999999999999",
        "1e22",
        "1e23",
        "1e-22",
        "1e-23",
        "1e99999999999999999999",
        "1e-99999999999999999999",
    ];
    for text in texts {
        assert_eq!(read_everywhere(text), expected(text), "{text}");
    }
}
