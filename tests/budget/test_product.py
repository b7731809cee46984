"""Products of sizes."""

from hwprune.budget import Axis, Product

WIDTHS = {"a": 3, "b": 5}
A, CONCATENATION = Axis(terms=(("a", 1),)), Axis(2, (("a", 1), ("b", 4)))


def test_fixed_dimensions_are_in_the_factor():
    product = Product.of([Axis(7), A, Axis(2), CONCATENATION], 4)
    assert product == Product(56, (A, CONCATENATION))
    assert product.at(WIDTHS) == 56 * 3 * 25
    assert product.times(0.5).at(WIDTHS) == 28 * 3 * 25


def test_nothing_that_changes():
    assert Product.of([Axis(7), Axis(2)]) == Product(14)
    assert Product.of([]).at({}) == 1
    assert Product.of([Axis(0), A]).at(WIDTHS) == 0
