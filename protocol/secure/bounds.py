"""How much the messages of secure aggregation may hold."""

MOST_MEMBERS = 32  # of one sum: every member makes a share for every other, which costs its square
MOST_OF_A_KEY = 600  # characters; PEM of a key of P-384 has about 300
MOST_OF_A_TOKEN = 2000  # of the two shares for one member, encrypted: about 640
MOST_OF_A_SHARE = 1000  # hexadecimal digits of one share: at most about 650
