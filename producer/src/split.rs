//! A bar becomes trades: their volumes add up to the bar's to the unit, and their prices make the same candle again. Pure, and the same for ever.

use jiff::civil::Date;

use crate::bars::Bar;
use crate::noise::Noise;

/// One trade's share of a bar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    /// What is traded.
    pub volume: u64,
    /// At which price.
    pub price: f64,
}

/// `bar` as `trades` trades (at least one), in the order of time. From four trades on the first is at the open, the last at the close, and others at the high
/// and the low; three are open, the extreme that is farther off, close; two are open and close; one is at the close.
#[must_use]
pub fn split(bar: &Bar, date: Date, trades: u32) -> Vec<Part> {
    let mut noise = Noise::of(&[b"split", bar.ticker.as_bytes(), date.to_string().as_bytes()]);
    let volumes = volumes(bar.volume, trades.max(1), &mut noise);
    let prices = prices(bar, trades.max(1), &mut noise);
    volumes.into_iter().zip(prices).map(|(volume, price)| Part { volume, price }).collect()
}

/// Shares of `volume` by weights between a half and one and a half. Cut from the running sum of the weights, so that nothing is lost to rounding.
fn volumes(volume: u64, trades: u32, noise: &mut Noise) -> Vec<u64> {
    let weights: Vec<u32> = (0..trades).map(|_| 512 + noise.below(1024)).collect();
    let total: u128 = weights.iter().copied().map(u128::from).sum();
    let (mut weight, mut before) = (0, 0);
    let cut = |weight: u128| u64::try_from(u128::from(volume) * weight / total).unwrap_or(volume);
    weights
        .into_iter()
        .map(|own| {
            weight += u128::from(own);
            let until = cut(weight);
            let share = until - before;
            before = until;
            share
        })
        .collect()
}

fn prices(bar: &Bar, trades: u32, noise: &mut Noise) -> Vec<f64> {
    let rising = bar.close >= bar.open;
    match trades {
        1 => vec![bar.close],
        2 => vec![bar.open, bar.close],
        3 => {
            let above = bar.high - bar.open.max(bar.close);
            let below = bar.open.min(bar.close) - bar.low;
            vec![bar.open, if above >= below { bar.high } else { bar.low }, bar.close]
        }
        _ => {
            let last = trades - 1;
            let first_turn = 1 + noise.below(last - 2);
            let second_turn = first_turn + 1 + noise.below(last - 1 - first_turn);
            // A day that closes higher mostly dips first, and the other way round.
            let (first, second) = if rising { (bar.low, bar.high) } else { (bar.high, bar.low) };
            let turns = [(0, bar.open), (first_turn, first), (second_turn, second), (last, bar.close)];
            turns.windows(2).flat_map(|leg| path(leg, bar, noise)).chain([bar.close]).collect()
        }
    }
}

/// From one turn (included) to the next (left out): a line with noise, within the bar.
fn path(leg: &[(u32, f64)], bar: &Bar, noise: &mut Noise) -> Vec<f64> {
    let &[(from, start), (to, end)] = leg else { return Vec::new() };
    // Some sources have bars whose open or close is a cent outside; they are replayed as they are, and nothing else leaves the wider range.
    let low = bar.low.min(bar.high).min(bar.open).min(bar.close);
    let high = bar.high.max(bar.low).max(bar.open).max(bar.close);
    let between = (from + 1..to).map(|at| {
        let way = f64::from(at - from) / f64::from(to - from);
        let price = start + (end - start) * way + (high - low) * 0.2 * (noise.unit() - 0.5);
        cents(price).clamp(low, high)
    });
    [start].into_iter().chain(between).collect()
}

/// Rounded to two digits.
#[must_use]
pub fn cents(price: f64) -> f64 {
    (price * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const DATE: Date = jiff::civil::date(2000, 3, 1);

    fn bar(open: f64, high: f64, low: f64, close: f64, volume: u64) -> Bar {
        Bar { ticker: "AAPL".into(), open, high, low, close, volume }
    }

    fn prices_of(parts: &[Part]) -> Vec<f64> {
        parts.iter().map(|part| part.price).collect()
    }

    #[rstest]
    #[case(1, vec![3.0])]
    #[case(2, vec![2.0, 3.0])]
    #[case(3, vec![2.0, 5.0, 3.0])]
    #[case(4, vec![2.0, 1.0, 5.0, 3.0])]
    fn few_trades_have_the_prices_that_matter(#[case] trades: u32, #[case] prices: Vec<f64>) {
        assert_eq!(prices_of(&split(&bar(2.0, 5.0, 1.0, 3.0, 10), DATE, trades)), prices);
    }

    #[test]
    fn a_split_never_changes() {
        let parts = split(&bar(118.56, 132.06, 118.5, 130.31, 9_616_100), DATE, 6);
        let seen: Vec<_> = parts.iter().map(|part| (part.volume, part.price)).collect();
        // Other numbers here would break replays that are half done when the program is updated.
        assert_eq!(seen, [(1_548_574, 118.56), (1_735_322, 119.42), (774_287, 118.5), (1_983_842, 132.06), (1_891_903, 129.89), (1_682_172, 130.31)]);
    }

    #[test]
    fn a_bar_that_contradicts_itself_is_split_all_the_same() {
        let parts = split(&bar(2.0, 1.0, 5.0, 9.0, 3), DATE, 50);
        assert_eq!(parts.iter().map(|part| part.volume).sum::<u64>(), 3);
        assert_eq!(parts.len(), 50);
    }

    proptest! {
        #[test]
        fn volumes_add_up_and_prices_make_the_same_candle(
            low in 1_u32..100_000, rise in 0_u32..50_000, at in (0.0..=1.0_f64, 0.0..=1.0_f64),
            volume in prop_oneof![0_u64..20, any::<u64>().prop_map(|v| v / 2)], trades in 1_u32..=1000,
        ) {
            let (low, rise) = (f64::from(low) / 100.0, f64::from(rise) / 100.0);
            let high = low + rise;
            let inside = |at: f64| cents(low + rise * at).clamp(low, high);
            let bar = bar(inside(at.0), high, low, inside(at.1), volume);
            let parts = split(&bar, DATE, trades);
            prop_assert_eq!(parts.len(), trades as usize);
            prop_assert_eq!(parts.iter().map(|part| u128::from(part.volume)).sum::<u128>(), u128::from(volume));
            let prices = prices_of(&parts);
            prop_assert!(prices.iter().all(|price| (low..=high).contains(price)), "{prices:?}");
            prop_assert_eq!(prices.last().copied(), Some(bar.close));
            if trades >= 2 {
                prop_assert_eq!(prices.first().copied(), Some(bar.open));
            }
            if trades >= 4 {
                prop_assert!(prices.contains(&high) && prices.contains(&low), "{prices:?}");
            }
            prop_assert_eq!(split(&bar, DATE, trades), parts);
        }
    }
}
