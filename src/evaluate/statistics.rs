//! Means over patches and how sure they are.

/// Mean and spread of a number over patches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Patches that have the number.
    pub count: usize,
    /// Their mean; NaN without any, infinite if one is.
    pub mean: f64,
    /// Standard deviation, from two finite values on.
    pub deviation: Option<f64>,
    /// Half the width of the 95 % confidence interval of the mean, by Student's t.
    pub margin: Option<f64>,
}

impl Summary {
    /// Of all values but NaN.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Summary {
        let values: Vec<f64> = values.into_iter().filter(|v| !v.is_nan()).collect();
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
        let deviation = (count > 1 && mean.is_finite()).then(|| (squares / (count - 1) as f64).sqrt());
        let margin = deviation.map(|deviation| student(count - 1) * deviation / (count as f64).sqrt());
        Summary { count, mean, deviation, margin }
    }

    /// Of the differences between two methods on the same patches.
    pub fn of_pairs(values: impl IntoIterator<Item = (f64, f64)>) -> Summary {
        Summary::of(values.into_iter().map(|(value, baseline)| value - baseline))
    }
}

/// The 97.5 % quantile of Student's t distribution: a table, from 10 degrees of freedom on the expansion around the normal
/// distribution's (Abramowitz and Stegun, 26.7.5), right to three digits.
fn student(freedom: usize) -> f64 {
    const TABLE: [f64; 9] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262];
    const Z: f64 = 1.959_963_985;
    if let Some(known) = freedom.checked_sub(1).and_then(|at| TABLE.get(at)) {
        return *known;
    }
    let n = freedom as f64;
    let power = |exponent: i32| Z.powi(exponent);
    Z + (power(3) + Z) / (4.0 * n)
        + (5.0 * power(5) + 16.0 * power(3) + 3.0 * Z) / (96.0 * n * n)
        + (3.0 * power(7) + 19.0 * power(5) + 17.0 * power(3) - 15.0 * Z) / (384.0 * n * n * n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_students_t() {
        // Of 1 … 5: deviation √2.5, t of 4 degrees 2.776.
        let summary = Summary::of([1.0, 2.0, f64::NAN, 3.0, 4.0, 5.0]);
        assert_eq!((summary.count, summary.mean), (5, 3.0));
        assert!((summary.deviation.unwrap() - 2.5f64.sqrt()).abs() < 1e-12);
        assert!((summary.margin.unwrap() - 2.776 * 0.5f64.sqrt()).abs() < 1e-12);
        for (freedom, want) in
            [(1, 12.706), (9, 2.262), (10, 2.228), (15, 2.131), (30, 2.042), (120, 1.980), (9999, 1.960)]
        {
            assert!((student(freedom) - want).abs() < 5.1e-4, "{freedom}: {}", student(freedom));
        }
    }

    #[test]
    fn what_has_no_spread_has_no_interval() {
        assert_eq!(Summary::of([2.0]), Summary { count: 1, mean: 2.0, deviation: None, margin: None });
        let infinite = Summary::of([f64::INFINITY, 1.0]);
        assert_eq!((infinite.mean, infinite.margin), (f64::INFINITY, None));
        let none = Summary::of([f64::NAN]);
        assert!(none.count == 0 && none.mean.is_nan() && none.deviation.is_none());
        assert_eq!(Summary::of_pairs([(3.0, 1.0), (5.0, 3.0)]).mean, 2.0);
    }
}
