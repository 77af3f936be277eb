"""Captions of DeepMimic's clips, written for this project in the manner of HumanML3D.

Every caption starts with who moves, followed by the verb, so that an adverb fits between the two; none names a pace.
"""

CAPTIONS = {
    "backflip": (
        "a person does two backflips.",
        "someone jumps up and flips backwards, then does it again.",
        "a person throws both arms up and somersaults backwards through the air two times.",
    ),
    "cartwheel": (
        "a person does a cartwheel to the left.",
        "someone bends to the left, puts both hands on the ground and cartwheels.",
        "a person turns a cartwheel, starting with the left hand.",
    ),
    "crawl": (
        "a person crawls on the ground.",
        "someone crawls low on elbows and knees, close to the floor.",
        "a person drags the body forward along the floor.",
    ),
    "dance_a": (
        "a person dances to the left, spinning around to the right.",
        "someone twirls with outstretched arms while moving to the left.",
        "a person swings both arms and turns around twice in a dance.",
    ),
    "dance_b": (
        "a person dances from side to side.",
        "someone steps to the right and back to the left, swinging the arms up.",
        "a person raises the left arm, then the right arm while dancing.",
    ),
    "getup_facedown": (
        "a person gets up from lying face down.",
        "someone pushes off the floor with both hands and stands up.",
        "a person rises from the stomach to hands and knees and then to standing.",
    ),
    "getup_faceup": (
        "a person gets up from lying on the back.",
        "someone swings both legs up, rocks forward to a squat and stands up.",
        "a person rolls up from the back and rises to the feet.",
    ),
    "jump": (
        "a person jumps forward twice.",
        "someone bends the knees and leaps forward with both feet, two times.",
        "a person does two standing jumps forward.",
    ),
    "kick": (
        "a person kicks with the right leg.",
        "someone turns to the left and does a side kick with the right leg.",
        "a person performs a high kick of martial arts with the right foot.",
    ),
    "punch": (
        "a person punches with the right hand.",
        "someone steps forward and throws a punch with the right fist.",
        "a person lunges forward with a straight right punch.",
    ),
    "roll": (
        "a person does two forward rolls.",
        "someone crouches, rolls over the ground and stands up, then does it again.",
        "a person rolls forward on the floor twice.",
    ),
    "run": (
        "a person runs forward.",
        "someone runs straight ahead with bent arms.",
        "a person runs in a straight line.",
    ),
    "spin": (
        "a person spins through the air with the legs swinging high, moving to the left.",
        "someone leaps into a butterfly kick, turning to the left.",
        "a person bends down, jumps into a horizontal spin and lands on the feet.",
    ),
    "spinkick": (
        "a person does two spinning kicks.",
        "someone jumps, spins to the left and kicks high with the right leg, twice.",
        "a person turns around in the air and kicks with the right foot, then does it again.",
    ),
    "walk": (
        "a person walks forward.",
        "someone walks straight ahead with swinging arms.",
        "a person takes four steps forward.",
    ),
}
