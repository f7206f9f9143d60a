//! Values for pixels that have none, so that the network sees a plausible neighbourhood: those of the nearest pixel with
//! a value, by rows or columns whichever is farther.
//!
//! Which pixel that is depends on nothing farther away than it is. A valid pixel of the map depends on filled ones within
//! the network's reach alone, and these have the valid pixel itself within that distance: with as many rows around a
//! window as the reach, the result is that of the whole scene. A mean or median of the window would change from window
//! to window.

/// For each pixel of `width` columns, the index of the pixel whose values it takes: itself if `valid` says so. Without any
/// valid pixel, each takes its own.
pub(super) fn nearest(valid: &[u8], width: usize) -> Vec<u32> {
    const FAR: u32 = u32::MAX;
    let height = valid.len() / width;
    let mut from: Vec<u32> = (0..valid.len() as u32).collect();
    let mut distance: Vec<u32> = valid.iter().map(|&v| if v == 0 { FAR } else { 0 }).collect();
    // Chessboard distances are exact after one pass in each direction.
    let mut look = |at: (usize, usize), dy: isize, dx: isize| {
        let [y, x] = [at.0 as isize + dy, at.1 as isize + dx];
        if y < 0 || x < 0 || y >= height as isize || x >= width as isize {
            return;
        }
        let (here, there) = (at.0 * width + at.1, y as usize * width + x as usize);
        let farther = distance[there].saturating_add(1);
        if farther < distance[here] {
            (distance[here], from[here]) = (farther, from[there]);
        }
    };
    for y in 0..height {
        for x in 0..width {
            [(-1, -1), (-1, 0), (-1, 1), (0, -1)].into_iter().for_each(|(dy, dx)| look((y, x), dy, dx));
        }
    }
    for y in (0..height).rev() {
        for x in (0..width).rev() {
            [(1, 1), (1, 0), (1, -1), (0, 1)].into_iter().for_each(|(dy, dx)| look((y, x), dy, dx));
        }
    }
    from
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Rng, Stream};

    fn distance(a: usize, b: usize, width: usize) -> usize {
        (a / width).abs_diff(b / width).max((a % width).abs_diff(b % width))
    }

    #[test]
    fn each_pixel_takes_the_values_of_a_nearest_valid_one() {
        let mut rng = Rng::new(5, Stream::Crop, 0, 0);
        for _ in 0..100 {
            let (height, width) = (1 + (rng.uniform() * 12.0) as usize, 1 + (rng.uniform() * 12.0) as usize);
            let share = rng.uniform();
            let valid: Vec<u8> = (0..height * width).map(|_| u8::from(rng.uniform() < share)).collect();
            let from = nearest(&valid, width);
            let least = |at| (0..valid.len()).filter(|&v| valid[v] != 0).map(|v| distance(at, v, width)).min();
            for (at, &source) in from.iter().enumerate() {
                match least(at) {
                    Some(least) => {
                        assert!(valid[source as usize] != 0);
                        assert_eq!(distance(at, source as usize, width), least);
                    }
                    None => assert_eq!(source as usize, at),
                }
            }
        }
    }

    /// Rows beyond the distance do not change which pixel is taken.
    #[test]
    fn what_is_taken_does_not_depend_on_what_is_far() {
        let mut rng = Rng::new(6, Stream::Crop, 0, 0);
        let (height, width, margin) = (40, 30, 6);
        let valid: Vec<u8> = (0..height * width).map(|_| u8::from(rng.uniform() < 0.02)).collect();
        let whole = nearest(&valid, width);
        let (first, last) = (10, 30);
        let part = nearest(&valid[(first - margin) * width..(last + margin) * width], width);
        let mut compared = 0;
        for at in first * width..last * width {
            let source = whole[at] as usize;
            if distance(at, source, width) <= margin {
                assert_eq!(part[at - (first - margin) * width] as usize + (first - margin) * width, source);
                compared += 1;
            }
        }
        assert!(compared > 300, "{compared}");
    }
}
