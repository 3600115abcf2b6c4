"""The data set card: one HTML file that shows people what a data set holds."""
