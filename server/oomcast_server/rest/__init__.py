"""The REST interface: parameters, answers, errors, and the page that explains them."""
